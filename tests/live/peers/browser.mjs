// The real client of @localfirst/relay in a real browser, run by browser_test.py:
//      node browser.mjs BROWSER PROFILE URL
// Opens the relay's own page twice and lets a client in each exchange messages with the other.
import { build } from "esbuild"
import puppeteer from "puppeteer-core"

const [, , executablePath, userDataDir, url] = process.argv

const bundle = async () => {
  const result = await build({
    stdin: {
      contents: `import { Client } from "@localfirst/relay/Client.js"; globalThis.Client = Client`,
      resolveDir: new URL(".", import.meta.url).pathname,
    },
    bundle: true,
    write: false,
    format: "iife",
    platform: "browser",
    define: { "process.env.NODE_ENV": `"production"`, global: "globalThis" },
    logLevel: "error",
  })
  return result.outputFiles[0].text
}

const check = (condition, what) => {
  if (!condition) throw new Error(what)
}

const open = async (browser, script) => {
  const page = await browser.newPage()
  await page.setCacheEnabled(false)
  await page.setBypassCSP(true) // the page itself may allow no scripts
  const response = await page.goto(url)
  check(response.status() === 200, `the page is answered ${response.status()}`)
  const title = await page.title()
  const size = await page.evaluate("document.body.innerHTML.trim().length")
  check(size > 0, "the page is empty")
  console.log(`the page is there, titled ${JSON.stringify(title)}`)
  await page.evaluate(script)
  return page
}

// Runs in the page: meets the other one, greets, and tells what it heard.
const participate = (url, peerId) =>
  new Promise((resolve, reject) => {
    const client = new Client({ peerId, url, documentIds: ["doc"] })
    setTimeout(() => reject(new Error(`${peerId} waited in vain`)), 30_000)
    client.on("peer-connect", ({ peerId: other, socket }) => {
      socket.addEventListener("message", ({ data }) => resolve(`${other} says ${data}`))
      socket.send(`hello from ${peerId} 🐟`)
    })
  })

const browser = await puppeteer.launch({
  executablePath,
  userDataDir,
  headless: true,
  acceptInsecureCerts: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--ignore-certificate-errors", "--disable-dev-shm-usage"],
})
try {
  const script = await bundle()
  const pages = [await open(browser, script), await open(browser, script)]
  const relay = url.replace(/^http/, "ws").replace(/\/$/, "")
  const heard = await Promise.all(
    ["alice", "bob"].map((peerId, i) => pages[i].evaluate(participate, relay, peerId)))
  check(heard[0] === "bob says hello from bob 🐟", heard[0])
  check(heard[1] === "alice says hello from alice 🐟", heard[1])
  console.log("ok")
} catch (error) {
  console.log(error.stack ?? error)
  process.exitCode = 1
} finally {
  await browser.close()
}

// Scenarios with the real, unmodified Client of @localfirst/relay, run by localfirst_test.py:
//      node localfirst.mjs SCENARIO URL
// Prints `ok` and ends with status 0, or says what went wrong and ends with 1. Lines before the last
// tell the caller how far a scenario has come; it answers with a line on standard input.
import { createHash, randomBytes } from "node:crypto"
import { createInterface } from "node:readline"
import { Client } from "@localfirst/relay/Client.js"
import { pack, unpack } from "msgpackr"
import WebSocket from "ws"

const PATIENCE = 60_000
const [, , scenario, url] = process.argv
const clients = []
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

const client = (peerId, documentIds = []) => {
  const one = new Client({ peerId, url, documentIds })
  one.on("error", () => {}) // it connects again by itself
  clients.push(one)
  return one
}

const check = (condition, what) => {
  if (!condition) throw new Error(what)
}

const until = async (condition, what) => {
  for (let left = PATIENCE; !condition(); left -= 10) {
    check(left > 0, `waited in vain for ${what}`)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

// Both ends' open sockets of one document.
const joined = async (a, b, documentId) => {
  const open = (one, other) => one.has(other.peerId, documentId) && one.get(other.peerId, documentId)
  await until(() => open(a, b) && open(b, a), `${a.peerId} and ${b.peerId} to meet in ${documentId}`)
  return [open(a, b), open(b, a)]
}

const parted = (a, b, documentId) =>
  until(() => !a.has(b.peerId, documentId) && !b.has(a.peerId, documentId), "the peers to part")

const messages = socket => {
  const queue = []
  const waiting = []
  socket.addEventListener("message", ({ data }) =>
    waiting.length ? waiting.shift()(data) : queue.push(data))
  return () => new Promise(resolve => (queue.length ? resolve(queue.shift()) : waiting.push(resolve)))
}

const talk = async (a, b, documentId, word = "hello") => {
  const [left, right] = await joined(a, b, documentId)
  for (const [from, to] of [[left, right], [right, left]]) {
    const next = messages(to)
    from.send(pack({ word, documentId }))
    const got = unpack(new Uint8Array(await next()))
    check(got.word === word && got.documentId === documentId, `got ${JSON.stringify(got)}`)
  }
}

const tell = async event => {
  console.log(event)
  await answers.next()
}

const scenarios = {
  async several_documents() {
    const documents = ["one", "two", "three", "a document with spaces", "ein/Stück ☂"].map(encodeURIComponent)
    const alice = client("alice", [...documents, "hers"])
    const bob = client("bob", [...documents, "his"])
    for (const documentId of documents) await talk(alice, bob, documentId, `in ${documentId}`)
    check(!alice.has("bob", "hers") && !alice.has("bob", "his"), "they met in what is not common")
    alice.join("late")
    bob.join("late")
    await talk(alice, bob, "late")
  },

  async five_peers() {
    const names = ["alice", "bob", "carol", "dave", "eve"]
    const peers = names.map(name => client(name, ["doc"]))
    for (const a of peers)
      for (const b of peers) if (a.peerId < b.peerId) await talk(a, b, "doc", `${a.peerId} ${b.peerId}`)
    for (const a of peers) check(a.peers.size === 4, `${a.peerId} has ${a.peers.size} peers`)
  },

  async leave() {
    const alice = client("alice", ["kept", "left"])
    const bob = client("bob", ["kept", "left"])
    await talk(alice, bob, "kept")
    await talk(alice, bob, "left")
    alice.leave("left")
    await parted(alice, bob, "left")
    await talk(alice, bob, "kept")
    const carol = client("carol", ["left"])
    await talk(carol, bob, "left")
    check(!carol.has("alice"), "carol met alice, who had left")
    alice.join("left")
    await talk(alice, carol, "left")
    await talk(alice, bob, "left")
  },

  async disconnect_a_peer() {
    const alice = client("alice", ["one", "two"])
    const bob = client("bob", ["one", "two"])
    const carol = client("carol", ["one"])
    for (const documentId of ["one", "two"]) await talk(alice, bob, documentId)
    await talk(alice, carol, "one")
    alice.disconnectPeer("bob")
    await parted(alice, bob, "one")
    await parted(alice, bob, "two")
    check(alice.open && bob.open, "they stay connected to the relay")
    await talk(alice, carol, "one")
    await talk(bob, carol, "one")
  },

  async disconnect_and_connect_again() {
    const alice = client("alice", ["doc"])
    const bob = client("bob", ["doc"])
    const carol = client("carol", ["doc"])
    for (let round = 0; round < 5; round++) {
      await talk(alice, bob, "doc", `round ${round}`)
      await talk(alice, carol, "doc", `round ${round}`)
      alice.disconnectServer()
      await parted(alice, bob, "doc")
      await parted(alice, carol, "doc")
      await talk(bob, carol, "doc", `round ${round}`)
      alice.connectToServer()
      alice.join("doc")
    }
    await talk(alice, bob, "doc")
  },

  // The new connection may reach the relay before the relay knows that the old one is dead.
  async lost_connection() {
    const alice = client("alice", ["doc"])
    const bob = client("bob", ["doc"])
    await talk(alice, bob, "doc")
    for (let round = 0; round < 20; round++) {
      const again = new Promise(resolve => alice.once("server-connect", resolve))
      const old = alice.serverConnection
      alice.connectToServer() // the newest wins
      await again
      alice.join("doc")
      old.close()
      await new Promise(resolve => old.addEventListener("close", resolve))
      const witness = client(`witness-${round}`, ["doc"])
      await talk(alice, witness, "doc")
      witness.disconnectServer()
    }
  },

  async relay_restarted() {
    const alice = client("alice", ["doc"])
    const bob = client("bob", ["doc"])
    await talk(alice, bob, "doc")
    const lost = Promise.all([alice, bob].map(one => new Promise(resolve => one.once("server-disconnect", resolve))))
    await tell("restart the relay")
    await lost
    await talk(alice, bob, "doc", "again")
  },

  async thousands_of_messages() {
    const alice = client("alice", ["doc"])
    const bob = client("bob", ["doc"])
    const sockets = await joined(alice, bob, "doc")
    const count = 5000
    await Promise.all([[0, 1], [1, 0]].map(async ([from, to]) => {
      const sent = createHash("sha256")
      const received = createHash("sha256")
      const next = messages(sockets[to])
      const receive = (async () => {
        for (let i = 0; i < count; i++) {
          const data = new Uint8Array(await next())
          received.update(`${data.length} `).update(data)
        }
      })()
      for (let i = 0; i < count; i++) {
        const data = randomBytes(1 + ((i * 7919) % 20_000))
        sent.update(`${data.length} `).update(data)
        sockets[from].send(data)
        if (i % 100 === 0) await new Promise(resolve => setImmediate(resolve))
      }
      await receive
      check(sent.digest("hex") === received.digest("hex"), "the messages differ")
    }))
  },

  async text_messages() {
    const alice = client("alice", ["doc"])
    const bob = client("bob", ["doc"])
    const [left, right] = await joined(alice, bob, "doc")
    const next = messages(right)
    left.send("Grüße 🐟")
    check((await next()) === "Grüße 🐟", "a string arrives as a string")
  },

  // As applications do: each speaks as soon as it has its socket, and listens from then on.
  async first_words() {
    const names = Array.from({ length: 20 }, (_, i) => `doc-${i}`)
    const heard = new Map()
    const peers = names.flatMap(name => ["a", "b"].map(end => {
      const peer = client(`${end}-${name}`, [name])
      peer.on("peer-connect", ({ socket }) => {
        socket.addEventListener("message", ({ data }) => heard.set(peer, unpack(new Uint8Array(data))))
        socket.send(pack(peer.peerId))
      })
      return peer
    }))
    await until(() => heard.size === peers.length, "every first word")
  },

  // Alice is quicker than Bob: she has sent before he has asked for her.
  async early_messages() {
    const alice = new WebSocket(`${url}/connection/alice/bob/doc`)
    await new Promise(resolve => alice.on("open", resolve))
    const early = Array.from({ length: 50 }, (_, i) => randomBytes(i * 20))
    for (const data of early) alice.send(data)
    await new Promise(resolve => { alice.once("pong", resolve); alice.ping() })
    const bob = new WebSocket(`${url}/connection/bob/alice/doc`)
    const next = messages(bob)
    alice.send(pack("late"))
    for (const data of early) check(data.equals(await next()), "an early message differs")
    check(unpack(await next()) === "late", "the order has changed")
    bob.close()
    await new Promise(resolve => alice.on("close", resolve))
  },

  async many_clients() {
    const peers = Array.from({ length: 40 }, (_, i) => client(`peer-${i}`, [`doc-${i >> 1}`, "nobody-else-" + i]))
    for (let i = 0; i < peers.length; i += 2) await talk(peers[i], peers[i + 1], `doc-${i >> 1}`)
    for (const one of peers) check(one.peers.size === 1, "only one peer is in common")
  },
}

const limit = setTimeout(() => {
  console.log("it takes too long")
  process.exit(1)
}, 2 * PATIENCE)

scenarios[scenario]().then(
  () => {
    clearTimeout(limit)
    console.log("ok")
    process.exit(0)
  },
  error => {
    console.log(error.stack ?? error)
    process.exit(1)
  })

/* Ticket files: see ticket.h. Their callers have made an identity before, and since then jansson's
 * memory is wiped when it is freed. */
#include "ticket.h"

#include "base/files.h"
#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>

enum {
    PUBLIC_MODE = 0644, /* less the umask */
    SECRET_MODE = 0600,
};

/* Logs, returns NULL if the address cannot be used. */
static json_t *address_json(const char *address)
{
    size_t length = strlen(address);
    if (length > TICKET_ADDRESS_MAX) {
        log_error("cannot use an address of %zu bytes: expected at most %d", length,
            (int)TICKET_ADDRESS_MAX);
        return NULL;
    }
    json_t *value = json_string(address);
    if (value == NULL)
        log_error("cannot use an address that is not UTF-8");
    return value;
}

/* Offset's stmgr writes the escapes of control characters in lower case. */
static void lower_escapes(char *text)
{
    for (char *at = strchr(text, '\\'); at != NULL; at = strchr(at + 2, '\\'))
        for (size_t i = 2; at[1] == 'u' && i < 6; i++)
            at[i] = (char)tolower((unsigned char)at[i]);
}

static mode_t public_mode(void)
{
    mode_t mask = umask(0);
    (void)umask(mask);
    return (PUBLIC_MODE & ~mask) | SECRET_MODE;
}

/* Writes and frees `root`; NULL: there was no memory for it. */
static int create_json(const char *path, mode_t mode, json_t *root)
{
    int error = -ENOMEM;
    char *text = root == NULL ? NULL : json_dumps(root, JSON_INDENT(2));
    if (text != NULL) {
        lower_escapes(text);
        error = files_create(path, mode, text, strlen(text));
    }
    ident_free_text(text);
    json_decref(root);
    if (error == 0)
        return 0;
    errno = -error;
    log_error_errno("cannot create %s", path);
    return -1;
}

int ticket_write(const char *path, const struct identity *identity, const char *address)
{
    char key[IDENT_TEXT_SIZE];
    json_t *value = address_json(address);
    if (value == NULL)
        return -1;
    ident_key_text(identity->public_key, key);
    return create_json(
        path, public_mode(), json_pack("{s:s, s:o}", "publicKey", key, "address", value));
}

int ticket_write_app(
    const char *path, const struct identity *identity, const struct ticket_permissions *permissions)
{
    char key[IDENT_TEXT_SIZE];
    ident_key_text(identity->public_key, key);
    return create_json(path, public_mode(),
        json_pack("{s:s, s:{s:b, s:b, s:b, s:b}}", "publicKey", key, "permissions", "routes",
            (int)permissions->routes, "buyer", (int)permissions->buyer, "seller",
            (int)permissions->seller, "config", (int)permissions->config));
}

int ticket_write_node_entry(
    const char *path, const struct identity *node, const struct identity *app, const char *address)
{
    char node_key[IDENT_TEXT_SIZE], app_secret[IDENT_TEXT_SIZE];
    json_t *value = address_json(address);
    if (value == NULL)
        return -1;
    ident_key_text(node->public_key, node_key);
    ident_key_text(app->secret_key, app_secret);
    json_t *root = json_pack("{s:s, s:o, s:s}", "nodePublicKey", node_key, "nodeAddress", value,
        "appPrivateKey", app_secret);
    sodium_memzero(app_secret, sizeof app_secret);
    return create_json(path, SECRET_MODE, root);
}

/* Networks: see networks.h. */
#include "base/networks.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

static bool host_bits_set(const struct network *network, size_t size)
{
    for (size_t bit = network->bits; bit < size * 8; bit++)
        if ((network->address[bit / 8] & (0x80 >> (bit % 8))) != 0)
            return true;
    return false;
}

static int parse_bits(const char *text, unsigned int max, unsigned int *bits)
{
    char *end;
    if (!isdigit((unsigned char)text[0]) || strlen(text) > 3)
        return -1;
    *bits = (unsigned int)strtoul(text, &end, 10);
    return *end == '\0' && *bits <= max ? 0 : -1;
}

/* Turns a network of IPv4-mapped IPv6 addresses into one of IPv4, as peers are compared as IPv4. */
static int unmap_ipv4(struct network *network)
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
    if (network->family != AF_INET6 || memcmp(network->address, prefix, sizeof prefix) != 0)
        return 0;
    if (network->bits < sizeof prefix * 8)
        return -1; /* it holds other addresses as well */
    network->family = AF_INET;
    network->bits -= (unsigned int)sizeof prefix * 8;
    memmove(network->address, network->address + sizeof prefix, 4);
    return 0;
}

int networks_parse(const char *text, struct network *ret)
{
    char address[INET6_ADDRSTRLEN];
    size_t length = strcspn(text, "/");
    *ret = (struct network){.family = AF_UNIX};
    if (strcmp(text, "unix") == 0)
        return 0;
    if (length >= sizeof address)
        return -1;
    memcpy(address, text, length);
    address[length] = '\0';
    ret->family = strchr(address, ':') == NULL ? AF_INET : AF_INET6;
    unsigned int size = ret->family == AF_INET ? 4 : 16;
    ret->bits = size * 8;
    if (inet_pton(ret->family, address, ret->address) != 1)
        return -1;
    if (text[length] == '/' && parse_bits(text + length + 1, size * 8, &ret->bits) < 0)
        return -1;
    return host_bits_set(ret, size) || unmap_ipv4(ret) < 0 ? -1 : 0;
}

static bool is_within(const struct network *network, const uint8_t *address)
{
    unsigned int bytes = network->bits / 8, rest = network->bits % 8;
    uint8_t mask = (uint8_t)(0xff00 >> rest);
    return memcmp(network->address, address, bytes) == 0 &&
           (rest == 0 || ((network->address[bytes] ^ address[bytes]) & mask) == 0);
}

bool networks_contain(const struct networks *networks, const struct sockaddr_storage *peer)
{
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)peer)->sin6_addr;
    const uint8_t *address = v6->s6_addr;
    int family = peer->ss_family;
    if (family == AF_INET) {
        address = (const uint8_t *)&((const struct sockaddr_in *)peer)->sin_addr;
    } else if (family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(v6)) {
        family = AF_INET;
        address += 12;
    }
    for (size_t i = 0; i < networks->count; i++) {
        const struct network *network = &networks->list[i];
        if (network->family == family && (family == AF_UNIX || is_within(network, address)))
            return true;
    }
    return false;
}

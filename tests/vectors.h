/* The test vectors of Offset's protocol, and what reads them. Run from the top of the sources. */
#ifndef RELAY_TESTS_VECTORS_H
#define RELAY_TESTS_VECTORS_H

#include <check.h>
#include <jansson.h>
#include <sodium.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct bytes {
    uint8_t *at;
    size_t size;
};

static inline json_t *load_vectors(void)
{
    json_error_t error;
    json_t *vectors = json_load_file("tests/offset-vectors.json", 0, &error);
    ck_assert_msg(vectors != NULL, "%s: %s", error.source, error.text);
    return vectors;
}

/* Walks down by names: `a.b` is object a's member b. */
static inline json_t *vector_at(json_t *object, const char *path)
{
    char name[64];
    while (*path != '\0') {
        size_t length = strcspn(path, ".");
        ck_assert_uint_lt(length, sizeof name);
        memcpy(name, path, length);
        name[length] = '\0';
        object = json_object_get(object, name);
        ck_assert_msg(object != NULL, "no vector %s", name);
        path += length + (path[length] == '.');
    }
    return object;
}

static inline const char *vector_text(json_t *object, const char *path)
{
    const char *text = json_string_value(vector_at(object, path));
    ck_assert_msg(text != NULL, "vector %s is no text", path);
    return text;
}

static inline size_t vector_number(json_t *object, const char *path)
{
    json_t *number = vector_at(object, path);
    ck_assert_msg(json_is_integer(number), "vector %s is no number", path);
    return (size_t)json_integer_value(number);
}

/* Bytes, freed by the caller. */
static inline struct bytes vector_bytes(json_t *object, const char *path)
{
    const char *text = vector_text(object, path);
    size_t length = strlen(text);
    struct bytes bytes = {malloc(length / 2 + 1), 0};
    ck_assert_ptr_nonnull(bytes.at);
    ck_assert_int_eq(
        sodium_hex2bin(bytes.at, length / 2 + 1, text, length, NULL, &bytes.size, NULL), 0);
    ck_assert_uint_eq(bytes.size, length / 2);
    return bytes;
}

/* Bytes of a size that is known. */
static inline void vector_fixed(json_t *object, const char *path, uint8_t *fixed, size_t size)
{
    struct bytes bytes = vector_bytes(object, path);
    ck_assert_uint_eq(bytes.size, size);
    memcpy(fixed, bytes.at, size);
    free(bytes.at);
}

static inline void expect_vector(json_t *object, const char *path, const void *got, size_t size)
{
    struct bytes bytes = vector_bytes(object, path);
    ck_assert_msg(bytes.size == size, "%s has %zu bytes, got %zu", path, bytes.size, size);
    if (size > 0)
        ck_assert_mem_eq(got, bytes.at, size);
    free(bytes.at);
}

#endif

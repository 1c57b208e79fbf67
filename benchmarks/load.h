/* What the load and its hostile clients share. */
#ifndef LOAD_H
#define LOAD_H
#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>
#ifndef NO_TLS
#include <openssl/ssl.h>
#endif

#define SECOND 1000000000ull

#define USAGE 1  /* the arguments, or this machine */
#define FAILED 2 /* the server, or the connection to it */
#define WRONG 3  /* an echo that is none */

/* Say why, and exit with one of those. */
__attribute__((noreturn, format(printf, 2, 3))) void end(int status, const char *format, ...);

/* Nanoseconds of a clock that only goes forward. */
uint64_t now(void);

/* Memory that is zero, or the end. */
void *room(size_t count, size_t size);

enum kind { BINARY, ASCII, TEXT3, JSON };

/* The same bytes in each run. */
void fill(uint8_t *to, size_t size, enum kind kind);

/* A masked frame; `first` is its first byte. Returns its length, `size` and 14 at most. */
size_t frame(uint8_t *to, uint8_t first, const uint8_t *payload, size_t size);

/* The same in so many frames, of which the last one has FIN. */
size_t fragmented(uint8_t *to, uint8_t first, const uint8_t *payload, size_t size, int fragments);

/* The payload of a compressed frame. Returns its length. */
size_t compressed(const uint8_t *from, size_t size, uint8_t *to, size_t space);

/* Returns its length. */
int upgradeRequest(char *to, size_t space, const char *path, int deflate);

/* Where all clients connect to. */
extern struct sockaddr_in server;
#ifndef NO_TLS
extern SSL_CTX *tlsContext;
#endif

/* ---- hostile.c */

enum hostility { PEACE, PINGS, FRAGMENTS, TINY_DEFLATE, DEFLATE, BOMB, HTTP };

/* Their names, from the first behind PEACE on; NULL is the last one. */
extern const char *const hostilities[];

struct attack {
    uint64_t bytes; /* of answers: what is sent may only lie in the sockets' buffers */
    uint64_t reconnects;
};

/* Returns once all clients have been let in, and have begun. They go on until the process ends. */
void startHostiles(enum hostility kind, int clients, int tls, const char *path);

struct attack attackSoFar(void);

#endif

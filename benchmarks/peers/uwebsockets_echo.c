/* uWebSockets without Python: its own server in C++, as its makers' C interface has it.
 *
 * The library is the one that socketify brings from PyPI, compiled by its makers (-O3, with
 * link-time optimization); what is declared here is what its native.py declares. So this is what
 * uWebSockets can do, less a call through a pointer for each message. It waits by libuv, as
 * uWebSockets.js does on Node; a build of one's own could wait by epoll itself.
 *
 * Not tuned to lose: uWebSockets sets TCP_NODELAY, corks what a turn sends, and reads up to 512 KiB
 * at a time. The compressor is shared between connections and so is the decompressor, which is what
 * its manual advises where no window is to be kept, and the only one that makes it answer
 * server_no_context_takeover. max_backpressure is far above what the load has in flight: beyond it,
 * messages are dropped. It checks UTF-8, and has the limit of 16 MiB that all have. No log.
 *
 *     uwebsockets [--deflate] [--cert FILE --key FILE] PORT
 */
#include "arguments.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

struct options {
    const char *key, *cert, *passphrase, *parameters, *authority, *ciphers;
    int lowMemory;
};

/* uWebSockets' SHARED_COMPRESSOR and SHARED_DECOMPRESSOR: App.h, `CompressOptions`. */
enum { DISABLED = 0, SHARED_COMPRESSOR = 1, SHARED_DECOMPRESSOR = 1 << 8 };

struct listening {
    int port;
    const char *host;
    int options;
};

struct behavior {
    int compression;
    unsigned maxPayloadLength;
    unsigned short idleTimeout;
    unsigned maxBackpressure;
    bool closeOnBackpressureLimit, resetIdleTimeoutOnSend, sendPingsAutomatically;
    unsigned short maxLifetime;
    void *upgrade;
    void (*open)(void *connection, void *data);
    void (*message)(void *connection, const char *message, size_t length, int opcode, void *data);
    void *drain, *ping, *pong;
    void (*close)(void *connection, int code, const char *message, size_t length, void *data);
    void *subscription;
};

void *uws_create_app(int ssl, struct options options);
void uws_ws(int ssl, void *app, const char *pattern, struct behavior behavior, void *data);
void uws_app_listen_with_config(int ssl, void *app, struct listening config,
                                void (*handler)(void *, struct listening, void *), void *data);
void uws_app_run(int ssl, void *app);
int uws_ws_send_with_options(int ssl, void *connection, const char *message, size_t length,
                             int opcode, bool compress, bool fin);

static struct arguments given;

static void echo(void *connection, const char *message, size_t length, int opcode, void *data)
{
    (void)data;
    uws_ws_send_with_options(given.cert != NULL, connection, message, length, opcode,
                             given.deflate, true);
}

static void opened(void *connection, void *data)
{
    (void)connection, (void)data;
}

static void closed(void *connection, int code, const char *message, size_t length, void *data)
{
    (void)connection, (void)code, (void)message, (void)length, (void)data;
}

static void listening(void *socket, struct listening config, void *data)
{
    (void)config, (void)data;
    if (socket == NULL)
        exit(1);
    puts("ready");
    fflush(stdout);
}

int main(int count, char **words)
{
    given = parse(count, words);
    int ssl = given.cert != NULL;
    void *app = uws_create_app(ssl, (struct options){.key = given.key, .cert = given.cert});
    uws_ws(ssl, app, "/*",
           (struct behavior){
               .compression = given.deflate ? SHARED_COMPRESSOR | SHARED_DECOMPRESSOR : DISABLED,
               .maxPayloadLength = LIMIT,
               .idleTimeout = 120,
               .maxBackpressure = 64 << 20,
               .open = opened,
               .message = echo,
               .close = closed,
           },
           NULL);
    uws_app_listen_with_config(ssl, app, (struct listening){given.port, "127.0.0.1", 0}, listening,
                               NULL);
    uws_app_run(ssl, app);
    return 1;
}

/* libwebsockets, as Debian builds it: one thread, its own loop (poll).
 *
 * It hands out messages in pieces; they are joined here, so that a message comes back in one frame,
 * as most clients expect, and sent when it says that the socket is writable, as its manual demands;
 * then as many as the socket takes.
 *
 * Not tuned to lose: on libuv or libev, which Debian has too, a message costs as much or more, even
 * with 2,000 connections. The buffers for reading are 128 KiB instead of 4, those of
 * permessage-deflate 64 KiB instead of 1, and nothing is kept between messages. It checks UTF-8
 * because it is told to, and sets TCP_NODELAY by itself. No timeout but the system's, no log. Of a
 * large message it copies what the socket does not take; to send that in pieces is to send
 * fragments, which not every client of an echo expects.
 *
 *     libwebsockets [--deflate] [--cert FILE --key FILE] PORT
 */
#include "arguments.h"
#include <libwebsockets.h>
#include <string.h>

#define READ (128 << 10)

struct message {
    struct message *next;
    size_t length, space;
    int isBinary;
    unsigned char *bytes; /* behind LWS_PRE bytes, where the library writes the frame's header */
};

struct connection {
    struct message *first, *last; /* whole ones, to be sent */
    struct message *coming;
};

static void discard(struct message *message)
{
    if (message == NULL)
        return;
    free(message->bytes - LWS_PRE);
    free(message);
}

/* Returns 0 if it is too long. */
static int append(struct message *message, const void *from, size_t length, size_t rest)
{
    size_t needed = message->length + length + rest;
    if (needed > LIMIT)
        return 0;
    if (needed > message->space) {
        message->space = needed > 2 * message->space ? needed : 2 * message->space;
        unsigned char *start = message->bytes ? message->bytes - LWS_PRE : NULL;
        message->bytes = (unsigned char *)realloc(start, LWS_PRE + message->space) + LWS_PRE;
    }
    memcpy(message->bytes + message->length, from, length);
    message->length += length;
    return 1;
}

static int received(struct lws *wsi, struct connection *c, const void *from, size_t length)
{
    if (c->coming == NULL) {
        c->coming = calloc(1, sizeof *c->coming);
        c->coming->isBinary = lws_frame_is_binary(wsi);
        append(c->coming, "", 0, 1);
    }
    if (!append(c->coming, from, length, lws_remaining_packet_payload(wsi)))
        return -1;
    if (!lws_is_final_fragment(wsi) || lws_remaining_packet_payload(wsi))
        return 0;
    if (c->last)
        c->last->next = c->coming;
    else
        c->first = c->coming;
    c->last = c->coming;
    c->coming = NULL;
    lws_callback_on_writable(wsi);
    return 0;
}

static int writable(struct lws *wsi, struct connection *c)
{
    while (c->first) {
        struct message *message = c->first;
        int kind = message->isBinary ? LWS_WRITE_BINARY : LWS_WRITE_TEXT;
        if (lws_write(wsi, message->bytes, message->length, kind) < 0)
            return -1;
        c->first = message->next;
        if (c->first == NULL)
            c->last = NULL;
        discard(message);
        if (c->first && lws_send_pipe_choked(wsi)) {
            lws_callback_on_writable(wsi);
            break;
        }
    }
    return 0;
}

static int happened(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t length)
{
    struct connection *c = user;
    switch (reason) {
    case LWS_CALLBACK_ESTABLISHED:
        memset(c, 0, sizeof *c);
        /* Exponents of two. */
        lws_set_extension_option(wsi, "permessage-deflate", "rx_buf_size", "16");
        lws_set_extension_option(wsi, "permessage-deflate", "tx_buf_size", "16");
        return 0;
    case LWS_CALLBACK_RECEIVE: return received(wsi, c, in, length);
    case LWS_CALLBACK_SERVER_WRITEABLE: return writable(wsi, c);
    case LWS_CALLBACK_CLOSED:
        while (c->first) {
            struct message *next = c->first->next;
            discard(c->first);
            c->first = next;
        }
        discard(c->coming);
        return 0;
    default: return lws_callback_http_dummy(wsi, reason, user, in, length);
    }
}

int main(int count, char **words)
{
    struct arguments given = parse(count, words);
    static const struct lws_protocols protocols[] = {
        {.name = "echo", .callback = happened, .per_session_data_size = sizeof(struct connection),
         .rx_buffer_size = READ},
        {0}};
    static const struct lws_extension extensions[] = {
        {"permessage-deflate", lws_extension_callback_pm_deflate,
         "permessage-deflate; server_no_context_takeover; client_no_context_takeover"},
        {0}};
    struct lws_context_creation_info info = {
        .port = given.port,
        .iface = "127.0.0.1",
        .protocols = protocols,
        .extensions = given.deflate ? extensions : NULL,
        .pt_serv_buf_size = READ,
        .options = LWS_SERVER_OPTION_VALIDATE_UTF8 | LWS_SERVER_OPTION_DISABLE_IPV6,
        .ssl_cert_filepath = given.cert,
        .ssl_private_key_filepath = given.key,
    };
    if (given.cert)
        info.options |= LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
    lws_set_log_level(LLL_ERR, NULL);
    struct lws_context *context = lws_create_context(&info);
    if (context == NULL)
        return 1;
    puts("ready");
    fflush(stdout);
    while (lws_service(context, 0) >= 0)
        ;
    lws_context_destroy(context);
    return 1;
}

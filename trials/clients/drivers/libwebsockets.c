/* libwebsockets, as Debian builds it. It checks UTF-8 because it is told to.
 *
 * It offers no compression: 4.1.6 hands out the same message for ever, if permessage-deflate is
 * agreed and that message is not compressed. It would not get past /getCaseCount.
 *
 * It hands out messages in pieces, which are joined here, and wants to be asked before it sends.
 *
 *     libwebsockets URL AGENT AT_ONCE [CASE ...]
 */
#include <libwebsockets.h>
#include <stdlib.h>
#include <string.h>

/* See harness.py. Seconds; characters. */
#define LIMIT 75
#define SHOWN 120
#define URL_SPACE 512

struct message {
    struct message *next;
    size_t length, space;
    int isBinary;
    unsigned char *bytes; /* behind LWS_PRE bytes, where the library writes the frame's header */
};

struct connection {
    struct message *first, *last; /* whole ones, to be sent */
    struct message *coming;
    const char *number;           /* of its case; NULL if it asks for a text */
    char saw[SHOWN + 1];
    int isBusy;
};

static const char *agent, *host;
static int port;
static char answer[32]; /* what was asked for */
static struct lws_context *context;

static void discard(struct message *message)
{
    if (message == NULL)
        return;
    free(message->bytes - LWS_PRE);
    free(message);
}

static void append(struct message *message, const void *from, size_t length)
{
    size_t needed = message->length + length;
    if (needed >= message->space) {
        message->space = 2 * needed + 1;
        unsigned char *start = message->bytes ? message->bytes - LWS_PRE : NULL;
        message->bytes = (unsigned char *)realloc(start, LWS_PRE + message->space) + LWS_PRE;
    }
    memcpy(message->bytes + message->length, from, length);
    message->length += length;
}

static void received(struct lws *wsi, struct connection *c, const void *from, size_t length)
{
    if (c->coming == NULL) {
        c->coming = calloc(1, sizeof *c->coming);
        c->coming->isBinary = lws_frame_is_binary(wsi);
    }
    append(c->coming, from, length);
    if (!lws_is_final_fragment(wsi) || lws_remaining_packet_payload(wsi))
        return;
    if (c->number == NULL)
        snprintf(answer, sizeof answer, "%.*s", (int)c->coming->length, c->coming->bytes);
    if (c->last)
        c->last->next = c->coming;
    else
        c->first = c->coming;
    c->last = c->coming;
    c->coming = NULL;
    if (c->number)
        lws_callback_on_writable(wsi);
}

static int writable(struct lws *wsi, struct connection *c)
{
    struct message *message = c->first;
    if (message == NULL)
        return 0;
    int kind = message->isBinary ? LWS_WRITE_BINARY : LWS_WRITE_TEXT;
    if (lws_write(wsi, message->bytes, message->length, kind) < 0)
        return -1;
    c->first = message->next;
    if (c->first == NULL)
        c->last = NULL;
    else
        lws_callback_on_writable(wsi);
    discard(message);
    return 0;
}

static void saw(struct connection *c, const char *what, const char *text, size_t length)
{
    snprintf(c->saw, sizeof c->saw, "%s%.*s", what, (int)length, text);
    for (char *p = c->saw; *p; p++) /* Errors quote what the server has sent. */
        if (*p < ' ' || *p > '~')
            *p = ' ';
}

static void ended(struct connection *c)
{
    while (c->first) {
        struct message *next = c->first->next;
        discard(c->first);
        c->first = next;
    }
    discard(c->coming);
    c->last = c->coming = NULL;
    if (c->number) {
        printf("%s\t%s\n", c->number, c->saw);
        fflush(stdout);
    }
    c->isBusy = 0;
}

static int happened(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t length)
{
    struct connection *c = user;
    switch (reason) {
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        saw(c, "not connected: ", in ? in : "", in ? strlen(in) : 0);
        ended(c);
        return 0;
    case LWS_CALLBACK_CLIENT_ESTABLISHED: lws_set_timer_usecs(wsi, LIMIT * LWS_USEC_PER_SEC); return 0;
    case LWS_CALLBACK_CLIENT_RECEIVE: received(wsi, c, in, length); return 0;
    case LWS_CALLBACK_CLIENT_WRITEABLE: return writable(wsi, c);
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE: {
        char code[32] = "closed without a code";
        if (length >= 2)
            snprintf(code, sizeof code, "closed with %d", lws_ser_ru16be(in));
        saw(c, code, "", 0);
        return 0;
    }
    case LWS_CALLBACK_TIMER: saw(c, "nothing, until the limit of the driver", "", 0); return -1;
    case LWS_CALLBACK_CLIENT_CLOSED: ended(c); return 0;
    default: return lws_callback_http_dummy(wsi, reason, user, in, length);
    }
}

static void start(struct connection *c, const char *path, const char *number)
{
    struct lws_client_connect_info info = {
        .context = context,
        .address = host,
        .port = port,
        .path = path,
        .host = host,
        .origin = host,
        .protocol = number ? "echo" : NULL,
        .local_protocol_name = "echo",
        .userdata = c,
    };
    memset(c, 0, sizeof *c);
    strcpy(c->saw, "no close frame");
    c->number = number;
    c->isBusy = 1;
    lws_client_connect_via_info(&info); /* If it fails, it says so by the callback. */
}

static int ask(const char *path)
{
    struct connection c;
    *answer = 0;
    start(&c, path, NULL);
    while (c.isBusy)
        lws_service(context, 0);
    return atoi(answer);
}

int main(int arguments, char **words)
{
    if (arguments < 4)
        return 2;
    static const struct lws_protocols protocols[] = {{.name = "echo", .callback = happened}, {0}};
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN,
        .protocols = protocols,
        .options = LWS_SERVER_OPTION_VALIDATE_UTF8,
    };
    const char *scheme, *rest;
    char path[URL_SPACE], *url = strdup(words[1]);
    if (lws_parse_uri(url, &scheme, &host, &port, &rest))
        return 2;
    agent = words[2];
    lws_set_log_level(0, NULL);
    context = lws_create_context(&info);
    if (context == NULL)
        return 1;

    int count = ask("/getCaseCount");
    if (count < 1)
        return 1;
    int isAll = arguments == 4, next = 0, wanted = isAll ? count : arguments - 4;
    int atOnce = atoi(words[3]), isBusy = 1;
    char(*numbers)[12] = calloc(wanted, sizeof *numbers);
    struct connection *connections = calloc(atOnce, sizeof *connections);
    while (isBusy) {
        isBusy = 0;
        for (int i = 0; i < atOnce; i++) {
            if (!connections[i].isBusy && next < wanted) {
                snprintf(numbers[next], sizeof *numbers, "%d", isAll ? next + 1 : atoi(words[4 + next]));
                snprintf(path, sizeof path, "/runCase?case=%s&agent=%s", numbers[next], agent);
                start(&connections[i], path, numbers[next++]);
            }
            isBusy |= connections[i].isBusy;
        }
        if (isBusy)
            lws_service(context, 0);
    }
    snprintf(path, sizeof path, "/updateReports?agent=%s", agent);
    ask(path);
    lws_context_destroy(context);
    return 0;
}

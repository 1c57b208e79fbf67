/* What every server in C or C++ here is told: the port, TLS or not, permessage-deflate or not. */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

/* Largest message in bytes: echotwist's default, so that all of them have to count. */
#define LIMIT (16 << 20)

struct arguments {
    int port, deflate;
    const char *cert, *key; /* NULL without TLS */
};

static struct arguments parse(int count, char **words)
{
    static const struct option options[] = {
        {"deflate", 0, 0, 'd'}, {"cert", 1, 0, 'c'}, {"key", 1, 0, 'k'}, {0, 0, 0, 0}};
    struct arguments found = {0, 0, 0, 0};
    int option;
    while ((option = getopt_long(count, words, "", options, 0)) != -1) {
        if (option == 'd')
            found.deflate = 1;
        else if (option == 'c')
            found.cert = optarg;
        else if (option == 'k')
            found.key = optarg;
        else
            exit(1);
    }
    found.port = optind == count - 1 ? atoi(words[optind]) : 0;
    if (found.port == 0 || !found.cert != !found.key) {
        fprintf(stderr, "usage: %s [--deflate] [--cert FILE --key FILE] PORT\n", words[0]);
        exit(1);
    }
    return found;
}

#endif

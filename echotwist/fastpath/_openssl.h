/* The functions of OpenSSL that a loop calls, by their addresses: fastpath/openssl.py gets them from
the library that Twisted's TLS uses, so that both act on the same objects. Neither OpenSSL's headers
nor its library are needed to compile this. */

#ifndef ECHOTWIST_OPENSSL_H
#define ECHOTWIST_OPENSSL_H

#include <stdint.h>

static struct {
    int (*SSL_read)(void *ssl, void *buffer, int size);
    int (*SSL_write)(void *ssl, const void *buffer, int size);
    int (*SSL_get_error)(const void *ssl, int result);
    int (*BIO_read)(void *bio, void *buffer, int size);
    int (*BIO_write)(void *bio, const void *buffer, int size);
    void (*ERR_clear_error)(void);
} openssl;

enum { SSL_ERROR_WANT_READ = 2 };

/* In the order of the names in openssl.py. */
static void use_openssl(const uintptr_t addresses[6])
{
    *(void **)&openssl.SSL_read = (void *)addresses[0];
    *(void **)&openssl.SSL_write = (void *)addresses[1];
    *(void **)&openssl.SSL_get_error = (void *)addresses[2];
    *(void **)&openssl.BIO_read = (void *)addresses[3];
    *(void **)&openssl.BIO_write = (void *)addresses[4];
    *(void **)&openssl.ERR_clear_error = (void *)addresses[5];
}

#endif

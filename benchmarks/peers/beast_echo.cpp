// Boost.Beast, as its own example of an asynchronous server, on one thread.
//
// Not tuned to lose: the io_context is told that there is one thread and takes no locks; sockets
// are of its executor's own type, so that no handler goes through a type-erased one; completions
// are plain function objects, no coroutines. The parser of HTTP is freed with the upgrade. Messages
// are sent in one frame (auto_fragment off) with TCP_NODELAY; the buffers for writing are as large
// as a message of the rows, so that compression does not cut it into fragments of 4 KiB. Beast
// compresses at level 8 by default; here it is 1, as gorilla's default, and nothing is kept between
// messages. Timeouts of Beast are off, which is its default for a plain socket. It checks UTF-8. No
// log. TLS is OpenSSL's, by asio's ssl::stream.
//
//     beast [--deflate] [--cert FILE --key FILE] PORT

#include "arguments.h"
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/ssl.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <memory>
#include <type_traits>

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using tcp = asio::ip::tcp;
using boost::system::error_code;
using Socket = asio::basic_stream_socket<tcp, asio::io_context::executor_type>;
using Acceptor = asio::basic_socket_acceptor<tcp, asio::io_context::executor_type>;
using Secure = asio::ssl::stream<Socket>;

static arguments given;

template <class Stream> class Echo : public std::enable_shared_from_this<Echo<Stream>> {
    websocket::stream<Stream, true> connection;
    beast::flat_buffer buffer;

  public:
    template <class... Arguments>
    explicit Echo(Arguments &&...values) : connection(std::forward<Arguments>(values)...)
    {
    }

    void run()
    {
        beast::get_lowest_layer(connection).set_option(tcp::no_delay(true));
        connection.read_message_max(LIMIT);
        connection.auto_fragment(false);
        if (given.deflate) {
            websocket::permessage_deflate deflate;
            deflate.server_enable = true;
            deflate.server_no_context_takeover = true;
            deflate.client_no_context_takeover = true;
            deflate.compLevel = 1;
            deflate.memLevel = 8;
            connection.set_option(deflate);
            connection.write_buffer_bytes(64 << 10);
        }
        if constexpr (std::is_same_v<Stream, Secure>)
            connection.next_layer().async_handshake(
                asio::ssl::stream_base::server,
                [self = this->shared_from_this()](error_code error) {
                    if (!error)
                        self->accept();
                });
        else
            accept();
    }

  private:
    void accept()
    {
        connection.async_accept([self = this->shared_from_this()](error_code error) {
            if (!error)
                self->read();
        });
    }

    void read()
    {
        connection.async_read(
            buffer, [self = this->shared_from_this()](error_code error, std::size_t) {
                if (!error)
                    self->write();
            });
    }

    void write()
    {
        connection.text(connection.got_text());
        connection.async_write(
            buffer.data(), [self = this->shared_from_this()](error_code error, std::size_t length) {
                if (error)
                    return;
                self->buffer.consume(length);
                self->read();
            });
    }
};

class Listener {
    Acceptor acceptor;
    asio::ssl::context &tls;

  public:
    Listener(asio::io_context &context, asio::ssl::context &tls)
        : acceptor(context, tcp::endpoint(asio::ip::address_v4::loopback(), given.port)), tls(tls)
    {
    }

    void accept()
    {
        acceptor.async_accept([this](error_code error, Socket socket) {
            if (!error) {
                if (given.cert)
                    std::make_shared<Echo<Secure>>(std::move(socket), tls)->run();
                else
                    std::make_shared<Echo<Socket>>(std::move(socket))->run();
            }
            accept();
        });
    }
};

int main(int count, char **words)
{
    given = parse(count, words);
    asio::io_context context(BOOST_ASIO_CONCURRENCY_HINT_UNSAFE);
    asio::ssl::context tls(asio::ssl::context::tls_server);
    if (given.cert) {
        tls.use_certificate_chain_file(given.cert);
        tls.use_private_key_file(given.key, asio::ssl::context::pem);
    }
    Listener listener(context, tls);
    listener.accept();
    puts("ready");
    fflush(stdout);
    context.run();
}

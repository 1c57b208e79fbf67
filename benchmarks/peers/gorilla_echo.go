// gorilla/websocket, as its own example of an echo, but for one thing.
//
// Not tuned to lose: the example's ReadMessage makes a new buffer for each message, and makes it
// larger again and again; here each connection keeps one. The buffers for frames are those of
// net/http, its default; WriteMessage sends from the message itself. Compression is at level 1, its
// default, with writers that it pools. Go sets TCP_NODELAY. It does not check the UTF-8 of text.
// Pinned to one core, Go runs its goroutines on one thread.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/gorilla/websocket"
)

const limit = 16 << 20

func main() {
	deflate := flag.Bool("deflate", false, "permessage-deflate")
	cert := flag.String("cert", "", "certificate")
	key := flag.String("key", "", "its key")
	flag.Parse()
	upgrader := websocket.Upgrader{EnableCompression: *deflate}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		connection, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer connection.Close()
		connection.SetReadLimit(limit)
		var message bytes.Buffer
		for {
			kind, reader, err := connection.NextReader()
			if err != nil {
				return
			}
			message.Reset()
			if _, err := message.ReadFrom(reader); err != nil {
				return
			}
			if connection.WriteMessage(kind, message.Bytes()) != nil {
				return
			}
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:"+flag.Arg(0))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	if *cert != "" {
		log.Fatal(http.ServeTLS(listener, nil, *cert, *key))
	}
	log.Fatal(http.Serve(listener, nil))
}

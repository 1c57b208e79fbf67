// gorilla/websocket. It offers compression only if it is told to.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// See harness.py.
const limit = 75 * time.Second
const shown = 120

var dialer = websocket.Dialer{HandshakeTimeout: limit, EnableCompression: true, Subprotocols: []string{"echo"}}

func ask(url string) string {
	connection, _, err := dialer.Dial(url, nil)
	if err != nil {
		fail(err)
	}
	defer connection.Close()
	_, message, err := connection.ReadMessage()
	if err != nil {
		fail(err)
	}
	return string(message)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func echo(url string) error {
	connection, response, err := dialer.Dial(url, nil)
	if err != nil {
		if response != nil {
			return fmt.Errorf("%w (%s)", err, response.Status)
		}
		return err
	}
	defer connection.Close()
	timer := time.AfterFunc(limit, func() { connection.Close() })
	defer timer.Stop()
	for {
		kind, message, err := connection.ReadMessage()
		if err != nil {
			return err
		}
		if err := connection.WriteMessage(kind, message); err != nil {
			return err
		}
	}
}

func main() {
	url, agent := os.Args[1], os.Args[2]
	atOnce, err := strconv.Atoi(os.Args[3])
	if err != nil {
		fail(err)
	}
	asked := os.Args[4:]
	count, err := strconv.Atoi(ask(url + "/getCaseCount"))
	if err != nil {
		fail(err)
	}
	for number := 1; len(os.Args) == 4 && number <= count; number++ {
		asked = append(asked, strconv.Itoa(number))
	}
	cases := make(chan string)
	var working sync.WaitGroup
	for i := 0; i < atOnce; i++ {
		working.Add(1)
		go func() {
			defer working.Done()
			for number := range cases {
				saw := echo(url + "/runCase?case=" + number + "&agent=" + agent).Error()
				tell(number, saw)
			}
		}()
	}
	for _, number := range asked {
		cases <- number
	}
	close(cases)
	working.Wait()
	echo(url + "/updateReports?agent=" + agent)
}

func tell(number, saw string) {
	// Errors quote what the server has sent.
	saw = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return ' '
		}
		return c
	}, saw)
	if len(saw) > shown {
		saw = saw[:shown]
	}
	fmt.Printf("%s\t%s\n", number, saw)
}

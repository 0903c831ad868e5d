// Command hello is the smallest web server worth running: the program of the
// tutorial. It answers every request with a greeting and the files it has.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	greeting, err := os.ReadFile("/etc/greeting")
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "%s", greeting) })
	log.Print("listening on :8080")
	log.Fatal(http.ListenAndServe(":8080", nil)) // in the container's own network
}

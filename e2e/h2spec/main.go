// The HTTP/2 conformance suite h2spec as a program that prints one line for each of its cases.
//
// It owns the printing alone: the cases and their verdicts are the suite's own. Upstream's program colours and wraps its
// output for terminals, which no test can read and no summary can be diffed from.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

func main() {
	c := config.Config{Host: "127.0.0.1", Path: "/", MaxHeaderLen: 4000, Strict: true}
	flag.IntVar(&c.Port, "port", 0, "port of the server on 127.0.0.1")
	flag.DurationVar(&c.Timeout, "timeout", time.Second, "how long the suite waits for what a server must do")
	flag.Parse()
	// The suite prints while it runs; on standard output stands only what comes after.
	out := os.Stdout
	os.Stdout = os.Stderr
	groups := []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()}
	for _, group := range groups {
		group.Test(&c)
	}
	for _, group := range groups {
		print(out, group)
	}
}

func print(out *os.File, group *spec.TestGroup) {
	for i, test := range append(group.Tests, group.StrictTests...) {
		verdict, detail := "passed", ""
		switch {
		case test.Result == nil || test.Result.Skipped:
			verdict = "skipped"
		case test.Result.Failed:
			verdict, detail = "failed", " | "+strings.ReplaceAll(fmt.Sprint(test.Result.Error), "\n", "; ")
		}
		fmt.Fprintf(out, "%s %s/%d %s%s\n", verdict, group.ID(), i+1, test.Desc, detail)
	}
	for _, sub := range group.Groups {
		print(out, sub)
	}
}

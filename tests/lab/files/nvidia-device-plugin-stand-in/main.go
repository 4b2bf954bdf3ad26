// SPDX-License-Identifier: GPL-3.0-or-later

// A stand-in for NVIDIA's device plugin, whose module can't be had: for the lab's simulated GPUs it does what that
// one's documentation promises, told by the same variables of the environment. The README of tests/lab/gpu says what a
// simulated GPU is, docs/nvidia_device_plugin.md what of this is real.
package main

import (
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	greeting   = "This is a STAND-IN for NVIDIA's device plugin, of Slipway's lab: not NVIDIA's, and for simulated GPUs only."
	retryAfter = 5 * time.Second
	lookEvery  = 500 * time.Millisecond
)

func main() {
	log.SetFlags(log.LstdFlags | log.Lmsgprefix)
	log.SetPrefix("nvidia-device-plugin-stand-in: ")
	log.Print(greeting)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	for {
		wanted, err := readSettings(os.Getenv)
		if err != nil {
			return err
		}
		served, err := start(wanted)
		if err != nil && wanted.failOnInitError {
			return err
		}
		if err != nil {
			log.Printf("%v; waiting, because FAIL_ON_INIT_ERROR is false", err)
		}
		again := wait(signals, served)
		served.stop()
		if !again {
			return nil
		}
	}
}

// start offers the GPUs to the kubelet; nil where that is not there yet.
func start(wanted *settings) (*plugin, error) {
	found, err := look(wanted)
	if err != nil {
		return nil, err
	}
	if wanted.has("cdi-cri") || wanted.has("cdi-annotations") {
		if err := found.writeSpec(wanted.idStrategy); err != nil {
			return nil, err
		}
	}
	served := newPlugin(wanted, found)
	if err := served.serve(); err != nil {
		log.Printf("the kubelet does not answer, again in %v: %v", retryAfter, err)
		served.stop()
		return nil, nil
	}
	return served, nil
}

// wait ends when all has to begin anew (true) or to end (false). A kubelet that restarts makes its socket anew, and has
// forgotten everybody.
func wait(signals <-chan os.Signal, served *plugin) bool {
	before := identity(api.KubeletSocket)
	started := time.Now()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case got := <-signals:
			log.Printf("received %v", got)
			return got == syscall.SIGHUP
		case <-ticker.C:
			now := identity(api.KubeletSocket)
			if now != before && now != (file{}) {
				log.Printf("%s is a new one: beginning anew", api.KubeletSocket)
				return true
			}
			if served == nil && time.Since(started) > retryAfter {
				return true
			}
			served.checkHealth()
		}
	}
}

// file tells one file from another one of the same name.
type file struct {
	inode    uint64
	modified syscall.Timespec
}

func identity(path string) file {
	status := syscall.Stat_t{}
	if err := syscall.Stat(path, &status); err != nil {
		return file{}
	}
	return file{inode: status.Ino, modified: status.Ctim}
}

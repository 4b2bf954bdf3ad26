// SPDX-License-Identifier: GPL-3.0-or-later

// A stand-in for flannel's CNI plugin, whose module can't be had: it does what that one's documentation promises.
// It asks the plugin bridge, with an address plan made of what flanneld has written to /run/flannel/subnet.env.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

type object = map[string]any

func main() {
	if err := run(); err != nil {
		_ = json.NewEncoder(os.Stdout).Encode(object{"code": 100, "msg": "flannel (the lab's stand-in): " + err.Error()})
		os.Exit(1)
	}
}

func run() error {
	if os.Getenv("CNI_COMMAND") == "VERSION" {
		return json.NewEncoder(os.Stdout).Encode(object{
			"cniVersion": "1.0.0", "supportedVersions": []string{"0.3.1", "0.4.0", "1.0.0"},
		})
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	asked := object{}
	if err := json.Unmarshal(text, &asked); err != nil {
		return err
	}
	network, err := subnet("/run/flannel/subnet.env")
	if err != nil {
		return err
	}
	return delegate(asked, network)
}

// subnet reads NAME=value lines.
func subnet(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			found[name] = value
		}
	}
	return found, nil
}

// delegate calls the plugin that makes the interface; its answer is ours.
func delegate(asked object, network map[string]string) error {
	wanted := object{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": network["FLANNEL_IPMASQ"] != "true"}
	if mtu, err := strconv.Atoi(network["FLANNEL_MTU"]); err == nil {
		wanted["mtu"] = mtu
	}
	if own, ok := asked["delegate"].(object); ok {
		for key, value := range own {
			wanted[key] = value
		}
	}
	for _, key := range []string{"cniVersion", "name", "prevResult", "runtimeConfig"} {
		if value, ok := asked[key]; ok {
			wanted[key] = value
		}
	}
	if !strings.Contains(network["FLANNEL_SUBNET"], "/") {
		return fmt.Errorf("FLANNEL_SUBNET is %q", network["FLANNEL_SUBNET"])
	}
	wanted["ipam"] = object{
		"type":   "host-local",
		"ranges": []any{[]any{object{"subnet": masked(network["FLANNEL_SUBNET"])}}},
		"routes": []any{object{"dst": network["FLANNEL_NETWORK"]}},
	}
	config, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	name := wanted["type"].(string)
	for _, directory := range filepath.SplitList(os.Getenv("CNI_PATH")) {
		if path := filepath.Join(directory, name); exists(path) {
			command := exec.Command(path)
			command.Stdin, command.Stdout, command.Stderr = strings.NewReader(string(config)), os.Stdout, os.Stderr
			if err := command.Run(); err != nil {
				os.Exit(1) // it has said why on standard output
			}
			return nil
		}
	}
	return fmt.Errorf("there is no plugin %s in %s", name, os.Getenv("CNI_PATH"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// masked turns an address with a prefix (10.244.1.1/24) into its network.
func masked(text string) string {
	_, network, err := net.ParseCIDR(text)
	if err != nil {
		return text
	}
	return network.String()
}

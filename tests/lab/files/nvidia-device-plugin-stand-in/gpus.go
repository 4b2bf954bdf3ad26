// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	cdiRoot = "/var/run/cdi"
	// What nvidia-ctk has written on the host. NVIDIA's plugin asks the driver, by the library that nvidia-ctk is made of.
	toolkitSpec = cdiRoot + "/nvidia.yaml"
	// NVIDIA's plugin has a spec and a kind of its own, too.
	kind     = "k8s.device-plugin.nvidia.com/gpu"
	ownSpec  = cdiRoot + "/k8s.device-plugin.nvidia.com-gpu.json"
	gpuNodes = "/dev/nvidia[0-9]*"
)

var deviceNode = regexp.MustCompile(`^/dev/nvidia\d+$`)

// spec is a CDI spec; what a device is made of is passed on as it is.
type spec struct {
	Version string          `json:"cdiVersion"`
	Kind    string          `json:"kind"`
	Devices []device        `json:"devices"`
	Edits   json.RawMessage `json:"containerEdits,omitempty"`
}

type device struct {
	Name  string          `json:"name"`
	Edits json.RawMessage `json:"containerEdits"`
}

// gpu is one that this container sees.
type gpu struct {
	uuid, index, node string
	edits             json.RawMessage
}

func (one gpu) name(strategy string) string {
	if strategy == "index" {
		return one.index
	}
	return one.uuid
}

type gpus struct {
	list []gpu
	spec spec
}

// look finds the GPUs that the container has been given, as NVIDIA's plugin does by the driver's library, which only a
// container of the runtime nvidia has.
func look(wanted *settings) (*gpus, error) {
	text, err := os.ReadFile(toolkitSpec)
	if err != nil {
		return nil, fmt.Errorf("no driver has been found: %w", err)
	}
	found := &gpus{}
	if err := yaml.Unmarshal(text, &found.spec); err != nil {
		return nil, fmt.Errorf("%s: %w", toolkitSpec, err)
	}
	seen, err := filepath.Glob(gpuNodes)
	if err != nil {
		return nil, err
	}
	for _, node := range seen {
		one := gpu{node: node}
		for _, entry := range found.spec.Devices {
			switch {
			case !entry.is(node):
			case strings.HasPrefix(entry.Name, "GPU-"):
				one.uuid, one.edits = entry.Name, entry.Edits
			default:
				one.index = entry.Name
			}
		}
		if one.uuid != "" {
			found.list = append(found.list, one)
		}
	}
	if len(found.list) == 0 {
		return nil, errors.New("no GPU is in this container: does its pod have the RuntimeClass nvidia?")
	}
	return found, nil
}

// is tells whether a device is that GPU and nothing else.
func (entry device) is(node string) bool {
	edits := struct {
		Nodes []struct {
			Path string `json:"path"`
		} `json:"deviceNodes"`
	}{}
	if json.Unmarshal(entry.Edits, &edits) != nil {
		return false
	}
	var own []string
	for _, item := range edits.Nodes {
		if deviceNode.MatchString(item.Path) {
			own = append(own, item.Path)
		}
	}
	return len(own) == 1 && own[0] == node
}

// writeSpec lets the runtimes know what the names mean that the kubelet will be told.
func (found *gpus) writeSpec(strategy string) error {
	made := spec{Version: found.spec.Version, Kind: kind, Edits: found.spec.Edits}
	for _, one := range found.list {
		made.Devices = append(made.Devices, device{Name: one.name(strategy), Edits: one.edits})
	}
	text, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		return err
	}
	// Not .json: a runtime that looks now would read half of it.
	if err := os.WriteFile(ownSpec+".part", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(ownSpec+".part", ownSpec)
}

// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const gpuResource = "nvidia.com/gpu"

// settings is what NVIDIA's README calls options; those that a simulated GPU has nothing for are not read.
type settings struct {
	strategies      []string // DEVICE_LIST_STRATEGY
	idStrategy      string   // DEVICE_ID_STRATEGY
	failOnInitError bool     // FAIL_ON_INIT_ERROR
	driverRoot      string   // CONTAINER_DRIVER_ROOT
	resource        string
	replicas        int  // sharing.timeSlicing.resources[].replicas of CONFIG_FILE
	onlyOne         bool // sharing.timeSlicing.failRequestsGreaterThanOne
}

// configFile is what is read of CONFIG_FILE.
type configFile struct {
	Version string `json:"version"`
	Sharing struct {
		TimeSlicing struct {
			RenameByDefault            bool `json:"renameByDefault"`
			FailRequestsGreaterThanOne bool `json:"failRequestsGreaterThanOne"`
			Resources                  []struct {
				Name     string `json:"name"`
				Replicas int    `json:"replicas"`
			} `json:"resources"`
		} `json:"timeSlicing"`
	} `json:"sharing"`
}

func (wanted *settings) has(strategy string) bool {
	return slices.Contains(wanted.strategies, strategy)
}

func readSettings(environment func(string) string) (*settings, error) {
	or := func(name, otherwise string) string {
		if value := environment(name); value != "" {
			return value
		}
		return otherwise
	}
	wanted := &settings{
		strategies:      strings.Split(or("DEVICE_LIST_STRATEGY", "envvar"), ","),
		idStrategy:      or("DEVICE_ID_STRATEGY", "uuid"),
		failOnInitError: or("FAIL_ON_INIT_ERROR", "true") == "true",
		driverRoot:      or("CONTAINER_DRIVER_ROOT", "/driver-root"),
		resource:        gpuResource,
		replicas:        1,
	}
	for _, strategy := range wanted.strategies {
		if !slices.Contains([]string{"envvar", "cdi-annotations", "cdi-cri"}, strategy) {
			return nil, fmt.Errorf("the stand-in knows no DEVICE_LIST_STRATEGY %q", strategy)
		}
	}
	if wanted.idStrategy != "uuid" && wanted.idStrategy != "index" {
		return nil, fmt.Errorf("invalid DEVICE_ID_STRATEGY: %q", wanted.idStrategy)
	}
	if path := environment("CONFIG_FILE"); path != "" {
		return wanted, wanted.share(path)
	}
	return wanted, nil
}

func (wanted *settings) share(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	config := configFile{}
	if err := yaml.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if config.Version != "v1" {
		return fmt.Errorf("%s: unknown version: %q", path, config.Version)
	}
	slicing := config.Sharing.TimeSlicing
	for _, resource := range slicing.Resources {
		if resource.Name != gpuResource || resource.Replicas < 2 {
			return fmt.Errorf("%s: %d replicas of %q can't be", path, resource.Replicas, resource.Name)
		}
		wanted.replicas, wanted.onlyOne = resource.Replicas, slicing.FailRequestsGreaterThanOne
		if slicing.RenameByDefault {
			wanted.resource = gpuResource + ".shared"
		}
	}
	return nil
}

// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	patience = 5 * time.Second
	// Between a GPU and the number of its replica.
	separator = "::"
)

// plugin is one life of the server that the kubelet asks.
type plugin struct {
	api.UnimplementedDevicePluginServer
	wanted  *settings
	found   *gpus
	socket  string
	server  *grpc.Server
	stopped chan struct{}

	lock    sync.Mutex
	lost    map[string]bool // UUIDs; none comes back before a restart, as with NVIDIA's
	changed chan struct{}   // closed, and made anew, when one is lost
}

func newPlugin(wanted *settings, found *gpus) *plugin {
	_, name, _ := strings.Cut(wanted.resource, "/")
	return &plugin{
		wanted:  wanted,
		found:   found,
		socket:  filepath.Join(api.DevicePluginPath, "nvidia-"+name+".sock"),
		server:  grpc.NewServer(),
		stopped: make(chan struct{}),
		lost:    map[string]bool{},
		changed: make(chan struct{}),
	}
}

// serve listens, and tells the kubelet.
func (served *plugin) serve() error {
	_ = os.Remove(served.socket)
	listener, err := net.Listen("unix", served.socket)
	if err != nil {
		return err
	}
	api.RegisterDevicePluginServer(served.server, served)
	go func() { _ = served.server.Serve(listener) }()
	connection, err := grpc.NewClient("unix://"+api.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	limited, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = api.NewRegistrationClient(connection).Register(limited, &api.RegisterRequest{
		Version:      api.Version,
		Endpoint:     filepath.Base(served.socket),
		ResourceName: served.wanted.resource,
		Options:      &api.DevicePluginOptions{},
	})
	if err == nil {
		log.Printf("registered %s with the kubelet: %d", served.wanted.resource, len(served.devices()))
	}
	return err
}

func (served *plugin) stop() {
	if served == nil {
		return
	}
	close(served.stopped)
	served.server.Stop()
	_ = os.Remove(served.socket)
}

// checkHealth looks whether the GPUs are still there; NVIDIA's plugin is told by the driver.
func (served *plugin) checkHealth() {
	if served == nil {
		return
	}
	served.lock.Lock()
	defer served.lock.Unlock()
	for _, one := range served.found.list {
		if _, err := os.Stat(served.wanted.driverRoot + one.node); err == nil || served.lost[one.uuid] {
			continue
		}
		log.Printf("%s device marked unhealthy: %s", served.wanted.resource, one.uuid)
		served.lost[one.uuid] = true
		close(served.changed)
		served.changed = make(chan struct{})
	}
}

func (served *plugin) devices() []*api.Device {
	served.lock.Lock()
	defer served.lock.Unlock()
	var list []*api.Device
	for _, one := range served.found.list {
		health := api.Healthy
		if served.lost[one.uuid] {
			health = api.Unhealthy
		}
		for replica := range served.wanted.replicas {
			id := one.uuid
			if served.wanted.replicas > 1 {
				id = fmt.Sprintf("%s%s%d", one.uuid, separator, replica)
			}
			list = append(list, &api.Device{ID: id, Health: health})
		}
	}
	return list
}

// GetDevicePluginOptions is part of the API.
func (served *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch tells the kubelet all devices, and again when one has become unhealthy.
func (served *plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	for {
		served.lock.Lock()
		changed := served.changed
		served.lock.Unlock()
		if err := stream.Send(&api.ListAndWatchResponse{Devices: served.devices()}); err != nil {
			return err
		}
		select {
		case <-served.stopped:
			return nil
		case <-stream.Context().Done():
			return nil
		case <-changed:
		}
	}
}

// Allocate says how containers get devices.
func (served *plugin) Allocate(_ context.Context, asked *api.AllocateRequest) (*api.AllocateResponse, error) {
	answer := &api.AllocateResponse{}
	for _, request := range asked.ContainerRequests {
		one, err := served.allocate(request.DevicesIds)
		if err != nil {
			return nil, err
		}
		answer.ContainerResponses = append(answer.ContainerResponses, one)
	}
	return answer, nil
}

func (served *plugin) allocate(ids []string) (*api.ContainerAllocateResponse, error) {
	if served.wanted.onlyOne && len(ids) > 1 {
		return nil, fmt.Errorf("request for '%s: %d' too large: maximum request size for shared resources is 1",
			served.wanted.resource, len(ids))
	}
	var names []string
	for _, id := range ids {
		uuid, _, _ := strings.Cut(id, separator)
		known := slices.IndexFunc(served.found.list, func(one gpu) bool { return one.uuid == uuid })
		if known < 0 {
			return nil, fmt.Errorf("invalid allocation request for '%s': unknown device: %s", served.wanted.resource, id)
		}
		if name := served.found.list[known].name(served.wanted.idStrategy); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	answer := &api.ContainerAllocateResponse{}
	var qualified []string
	for _, name := range names {
		qualified = append(qualified, kind+"="+name)
	}
	if served.wanted.has("cdi-cri") {
		for _, name := range qualified {
			answer.CdiDevices = append(answer.CdiDevices, &api.CDIDevice{Name: name})
		}
	}
	if served.wanted.has("cdi-annotations") {
		answer.Annotations = map[string]string{
			"cdi.k8s.io/nvidia-device-plugin_" + rand.Text(): strings.Join(qualified, ","),
		}
	}
	if served.wanted.has("envvar") {
		answer.Envs = map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(names, ",")}
	}
	return answer, nil
}

// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What the pod and its container are called, and how long their removal may take after the deadline.
const (
	podName       = "slipway-cri"
	containerName = "main"
	cleanupTime   = 30 * time.Second
	pollEvery     = 100 * time.Millisecond
)

// exitStatus is how a container ended: this program ends with it.
type exitStatus int32

func (status exitStatus) Error() string {
	return fmt.Sprintf("the container ended with %d", int32(status))
}

// words collects an option that may be given more than once.
type words []string

func (list *words) String() string { return strings.Join(*list, " ") }

func (list *words) Set(word string) error {
	*list = append(*list, word)
	return nil
}

// pod is what `run` was asked for.
type pod struct {
	handler, auth    string
	environment, cdi words
	image            string
	command          []string
}

func parsePod(arguments []string, auth string) (*pod, error) {
	wanted := &pod{auth: auth}
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.StringVar(&wanted.handler, "handler", "", "the runtime handler, as a RuntimeClass names it")
	flags.Var(&wanted.environment, "env", "NAME=VALUE, any number of times")
	flags.Var(&wanted.cdi, "cdi", "a CDI device such as nvidia.com/gpu=0, any number of times")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if flags.NArg() < 2 {
		return nil, errUsage
	}
	wanted.image, wanted.command = normal(flags.Arg(0)), flags.Args()[1:]
	return wanted, nil
}

// execute runs one container in a pod of its own and prints what it says; both are gone afterwards.
func (wanted *pod) execute(ctx context.Context, service runtime.RuntimeServiceClient, images runtime.ImageServiceClient) error {
	if err := wanted.fetch(ctx, images); err != nil {
		return err
	}
	logs, err := os.MkdirTemp("", "slipway-cri-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(logs) }()
	config, err := wanted.sandbox(ctx, service, logs)
	if err != nil {
		return err
	}
	sandbox, err := service.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config, RuntimeHandler: wanted.handler})
	if err != nil {
		return err
	}
	defer remove(service, sandbox.PodSandboxId)
	container, err := service.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: sandbox.PodSandboxId, Config: wanted.container(), SandboxConfig: config,
	})
	if err != nil {
		return err
	}
	if _, err := service.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: container.ContainerId}); err != nil {
		return err
	}
	status, err := await(ctx, service, container.ContainerId)
	if shown := show(filepath.Join(logs, containerName+".log")); err == nil {
		err = shown
	}
	if err == nil && status != 0 {
		err = exitStatus(status)
	}
	return err
}

// fetch pulls the image where it is missing, as a pod with the policy IfNotPresent does.
func (wanted *pod) fetch(ctx context.Context, images runtime.ImageServiceClient) error {
	reply, err := images.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: spec(wanted.image)})
	if err != nil || reply.Image != nil {
		return err
	}
	_, err = images.PullImage(ctx, pullRequest(wanted.image, wanted.auth))
	return err
}

// onHost are the namespaces of a pod with hostNetwork: it needs no CNI plugin.
func onHost() *runtime.NamespaceOption {
	return &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_CONTAINER}
}

func (wanted *pod) sandbox(ctx context.Context, service runtime.RuntimeServiceClient, logs string) (*runtime.PodSandboxConfig, error) {
	parent, err := wanted.cgroup(ctx, service)
	if err != nil {
		return nil, err
	}
	unique := fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano())
	return &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: podName, Namespace: podName, Uid: unique},
		LogDirectory: logs,
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent:    parent,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: onHost()},
		},
	}, nil
}

// cgroup chooses the pod's cgroup as the kubelet would: a slice where the runtime leaves cgroups to systemd.
func (wanted *pod) cgroup(ctx context.Context, service runtime.RuntimeServiceClient) (string, error) {
	reply, err := service.Status(ctx, &runtime.StatusRequest{Verbose: true})
	if err != nil {
		return "", err
	}
	var config struct {
		Containerd struct {
			DefaultRuntimeName string `json:"defaultRuntimeName"`
			Runtimes           map[string]struct {
				Options map[string]any `json:"options"`
			} `json:"runtimes"`
		} `json:"containerd"`
	}
	if err := json.Unmarshal([]byte(reply.Info["config"]), &config); err != nil {
		return "", fmt.Errorf("the runtime's configuration: %w", err)
	}
	name := wanted.handler
	if name == "" {
		name = config.Containerd.DefaultRuntimeName
	}
	if config.Containerd.Runtimes[name].Options["SystemdCgroup"] == true {
		return podName + ".slice", nil
	}
	return "", nil
}

func (wanted *pod) container() *runtime.ContainerConfig {
	config := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: containerName},
		Image:    spec(wanted.image),
		Command:  wanted.command,
		LogPath:  containerName + ".log",
		Linux: &runtime.LinuxContainerConfig{
			SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: onHost()},
		},
	}
	for _, pair := range wanted.environment {
		key, value, _ := strings.Cut(pair, "=")
		config.Envs = append(config.Envs, &runtime.KeyValue{Key: key, Value: value})
	}
	for _, name := range wanted.cdi {
		config.CDIDevices = append(config.CDIDevices, &runtime.CDIDevice{Name: name})
	}
	return config
}

func await(ctx context.Context, service runtime.RuntimeServiceClient, id string) (int32, error) {
	for {
		reply, err := service.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return 0, err
		}
		if reply.Status.State == runtime.ContainerState_CONTAINER_EXITED {
			return reply.Status.ExitCode, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("the container did not end in time: %w", ctx.Err())
		case <-time.After(pollEvery):
		}
	}
}

// show prints a container's log without what the runtime put before each line: time, stream, and F or P for a part.
func show(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewReader(file); ; {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		fields := strings.SplitN(line, " ", 4)
		if len(fields) != 4 {
			return fmt.Errorf("%s holds what is no line of a log: %q", path, line)
		}
		text, stream := fields[3], os.Stdout
		if fields[2] == "P" {
			text = strings.TrimSuffix(text, "\n")
		}
		if fields[1] == "stderr" {
			stream = os.Stderr
		}
		_, _ = io.WriteString(stream, text)
	}
}

// remove takes the pod away with what is in it, also when the deadline has passed.
func remove(service runtime.RuntimeServiceClient, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
	defer cancel()
	if _, err := service.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		fmt.Fprintln(os.Stderr, "cri: the pod could not be stopped:", err)
	}
	if _, err := service.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		fmt.Fprintln(os.Stderr, "cri: the pod could not be removed:", err)
	}
}

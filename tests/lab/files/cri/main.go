// SPDX-License-Identifier: GPL-3.0-or-later

// Command cri asks a container runtime for images, and for a pod, the way the kubelet does: by the Container Runtime
// Interface.
//
// ctr is no witness for what a pod gets: it neither reads certs.d nor uses the daemon's own resolver
// (containerd/containerd#6438). This program sends the same gRPC messages as the kubelet's image manager.
//
//	cri [-socket PATH] [-timeout 60s] [-auth USER:PASSWORD] pull IMAGE   prints the image reference
//	cri [-socket PATH] images                                            prints one "ID TAG..." line an image
//	cri [-socket PATH] remove IMAGE
//	cri [-socket PATH] info                                              prints the runtime's name, version and conditions
//	cri [-socket PATH] [-timeout 60s] run [-handler NAME] [-env K=V]... [-cdi DEVICE]... IMAGE COMMAND...
//	    runs a container in a pod on the host's network, prints what it says and ends with its exit status
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var errUsage = errors.New("usage: cri [-socket PATH] [-timeout 60s] [-auth USER:PASSWORD] pull IMAGE | images | remove IMAGE | info | run [-handler NAME] [-env K=V]... [-cdi DEVICE]... IMAGE COMMAND...")

// spec names an image as the kubelet does since 1.31: with the name the user wrote kept beside the full one.
func spec(image string) *runtime.ImageSpec {
	return &runtime.ImageSpec{Image: image, UserSpecifiedImage: image}
}

// pullRequest asks for one image; user and password stand for a pod's imagePullSecret.
func pullRequest(image, auth string) *runtime.PullImageRequest {
	request := &runtime.PullImageRequest{Image: spec(image)}
	if auth != "" {
		user, password, _ := strings.Cut(auth, ":")
		request.Auth = &runtime.AuthConfig{Username: user, Password: password}
	}
	return request
}

func pull(ctx context.Context, images runtime.ImageServiceClient, image, auth string) error {
	reply, err := images.PullImage(ctx, pullRequest(normal(image), auth))
	if err != nil {
		return err
	}
	fmt.Println(reply.ImageRef)
	return nil
}

// normal adds what the kubelet adds before it asks: the default tag (kubelet's applyDefaultImageTag), nothing else.
func normal(image string) string {
	last := image[strings.LastIndex(image, "/")+1:]
	if strings.ContainsAny(last, ":@") {
		return image
	}
	return image + ":latest"
}

func list(ctx context.Context, images runtime.ImageServiceClient) error {
	reply, err := images.ListImages(ctx, &runtime.ListImagesRequest{})
	if err != nil {
		return err
	}
	for _, image := range reply.Images {
		fmt.Println(image.Id, strings.Join(image.RepoTags, " "))
	}
	return nil
}

func info(ctx context.Context, service runtime.RuntimeServiceClient) error {
	version, err := service.Version(ctx, &runtime.VersionRequest{})
	if err != nil {
		return err
	}
	fmt.Println(version.RuntimeName, version.RuntimeVersion, version.RuntimeApiVersion)
	state, err := service.Status(ctx, &runtime.StatusRequest{})
	if err != nil {
		return err
	}
	for _, condition := range state.Status.Conditions {
		fmt.Printf("%s=%t %s\n", condition.Type, condition.Status, condition.Reason)
	}
	return nil
}

func run() error {
	socket := flag.String("socket", "/run/containerd/containerd.sock", "the runtime's socket")
	timeout := flag.Duration("timeout", time.Minute, "give up after this long")
	auth := flag.String("auth", "", "user:password, as from a pod's imagePullSecret")
	flag.Parse()
	arguments := flag.Args()
	if len(arguments) == 0 {
		return errUsage
	}
	connection, err := grpc.NewClient("unix://"+*socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	images := runtime.NewImageServiceClient(connection)
	switch verb := arguments[0]; {
	case verb == "pull" && len(arguments) == 2:
		return pull(ctx, images, arguments[1], *auth)
	case verb == "remove" && len(arguments) == 2:
		_, err := images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: spec(arguments[1])})
		return err
	case verb == "images" && len(arguments) == 1:
		return list(ctx, images)
	case verb == "info" && len(arguments) == 1:
		return info(ctx, runtime.NewRuntimeServiceClient(connection))
	case verb == "run":
		wanted, err := parsePod(arguments[1:], *auth)
		if err != nil {
			return err
		}
		return wanted.execute(ctx, runtime.NewRuntimeServiceClient(connection), images)
	}
	return errUsage
}

func main() {
	err := run()
	var ended exitStatus
	if errors.As(err, &ended) {
		os.Exit(int(ended))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cri:", status.Convert(err).Message())
		os.Exit(1)
	}
}

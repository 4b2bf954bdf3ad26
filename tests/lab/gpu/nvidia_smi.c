/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Lists GPUs as nvidia-smi does, from whatever management library the loader finds: `-L`, or no argument at all; or their
 * numbers alone, by `--query-gpu=index --format=csv,noheader`. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define LIBRARY "libnvidia-ml.so.1"

enum { MISUSE = 2, NO_DRIVER = 9, NO_LIBRARY = 12 };

static void *library;

static void *look_up(const char *name) {
    void *found = dlsym(library, name);
    if (!found)
        fprintf(stderr, "%s has no %s\n", LIBRARY, name);
    return found;
}

static int list(int numbers_only) {
    unsigned count = 0;
    void *device;
    char name[96], uuid[96];
    int (*get_count)(unsigned *) = look_up("nvmlDeviceGetCount_v2");
    int (*get_device)(unsigned, void **) = look_up("nvmlDeviceGetHandleByIndex_v2");
    int (*get_name)(void *, char *, unsigned) = look_up("nvmlDeviceGetName");
    int (*get_uuid)(void *, char *, unsigned) = look_up("nvmlDeviceGetUUID");
    if (!get_count || !get_device || !get_name || !get_uuid)
        return NO_LIBRARY;
    if (get_count(&count))
        return 1;
    for (unsigned index = 0; index < count; index++) {
        if (numbers_only) {
            printf("%u\n", index);
            continue;
        }
        if (get_device(index, &device) || get_name(device, name, sizeof name) || get_uuid(device, uuid, sizeof uuid))
            return 1;
        printf("GPU %u: %s (UUID: %s)\n", index, name, uuid);
    }
    return 0;
}

int main(int argc, char **argv) {
    int numbers_only = argc == 3 && !strcmp(argv[1], "--query-gpu=index") && !strcmp(argv[2], "--format=csv,noheader");
    if (!numbers_only && (argc > 2 || (argc == 2 && strcmp(argv[1], "-L")))) {
        fprintf(stderr, "The lab's nvidia-smi knows -L, and --query-gpu=index --format=csv,noheader.\n");
        return MISUSE;
    }
    library = dlopen(LIBRARY, RTLD_NOW);
    if (!library) {
        printf("NVIDIA-SMI couldn't find %s library in your system.\n", LIBRARY);
        return NO_LIBRARY;
    }
    int (*start)(void) = look_up("nvmlInit_v2");
    if (!start || start()) {
        printf("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n");
        return NO_DRIVER;
    }
    return list(numbers_only);
}

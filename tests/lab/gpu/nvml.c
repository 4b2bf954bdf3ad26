/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A stand-in for NVIDIA's management library: it answers what a container toolkit and nvidia-smi -L ask, for GPUs that
 * do not exist. What it does not know returns "not supported" (not_supported.c, which the build makes).
 *
 * It knows its GPUs from LAB_GPU_COUNT, LAB_GPU_DRIVER and LAB_GPU_UUIDS (separated by commas) in the environment, else
 * from /etc/lab-gpu.conf, else, as in a container, from the device nodes and from its own file name.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIGURATION "/etc/lab-gpu.conf"
#define MOST 32
#define NAME "Slipway Simulated GPU"
#define FIRST_BUS 0x41
#define MEMORY (16ULL << 30)

/* Results and constants with the numbers that callers know. */
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
};
enum { ARCHITECTURE_AMPERE = 7, BRAND_UNKNOWN = 0, CUDA_VERSION = 13000, CAPABILITY_MAJOR = 8, CAPABILITY_MINOR = 0 };

struct gpu {
    unsigned minor;
    char uuid[80];
};

/* The third version of the structure; the older two are a beginning of it with a shorter last member. */
struct pci {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char address[32];
};

struct pci_old {
    char address[16];
    unsigned domain, bus, device, id;
};

struct memory {
    unsigned long long total, free, used;
};

static struct gpu gpus[MOST];
static unsigned count;
static unsigned users;
static char driver[80];

static const char *configured(const char *name, char *buffer, size_t size) {
    const char *found = getenv(name);
    if (found)
        return found;
    FILE *file = fopen(CONFIGURATION, "re");
    if (!file)
        return NULL;
    size_t length = strlen(name);
    while (!found && fgets(buffer, (int)size, file)) {
        if (strncmp(buffer, name, length) || buffer[length] != '=')
            continue;
        buffer[strcspn(buffer, "\n")] = '\0';
        found = buffer + length + 1;
    }
    fclose(file);
    return found;
}

static bool has_node(unsigned minor) {
    char path[32];
    snprintf(path, sizeof path, "/dev/nvidia%u", minor);
    return access(path, F_OK) == 0;
}

static void find_gpus(void) {
    char line[MOST * 80];
    const char *text = configured("LAB_GPU_COUNT", line, sizeof line);
    unsigned wanted = text ? (unsigned)strtoul(text, NULL, 10) : MOST;
    count = 0;
    for (unsigned minor = 0; minor < wanted && minor < MOST; minor++)
        if (text || has_node(minor)) {
            /* Every machine's first GPU has the same name: a container sees the name that its host sees. */
            snprintf(gpus[count].uuid, sizeof gpus[count].uuid, "GPU-51195a70-0000-4000-8000-%012x", minor);
            gpus[count++].minor = minor;
        }
    text = configured("LAB_GPU_UUIDS", line, sizeof line);
    for (unsigned index = 0; text && *text && index < count; index++) {
        size_t length = strcspn(text, ",");
        snprintf(gpus[index].uuid, sizeof gpus[index].uuid, "%.*s", (int)length, text);
        text += length + (text[length] == ',');
    }
}

static void find_driver(void) {
    char line[256], real[PATH_MAX];
    const char *text = configured("LAB_GPU_DRIVER", line, sizeof line);
    Dl_info self;
    if (!text && dladdr((void *)find_driver, &self) && realpath(self.dli_fname, real)) {
        const char *end = strstr(real, ".so.");
        text = end ? end + 4 : NULL;
    }
    snprintf(driver, sizeof driver, "%s", text ? text : "0");
}

static int start(void) {
    char line[256];
    if (!getenv("LAB_GPU_COUNT") && access("/dev/nvidiactl", F_OK))
        return DRIVER_NOT_LOADED;
    const char *loaded = configured("LAB_GPU_COUNT", line, sizeof line);
    if (loaded && strtoul(loaded, NULL, 10) == 0)
        return DRIVER_NOT_LOADED;
    if (users++ == 0) {
        find_gpus();
        find_driver();
    }
    return SUCCESS;
}

int nvmlInit(void) { return start(); }
int nvmlInit_v2(void) { return start(); }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return start();
}

int nvmlShutdown(void) {
    if (users == 0)
        return UNINITIALIZED;
    users--;
    return SUCCESS;
}

const char *nvmlErrorString(int result) {
    switch (result) {
    case SUCCESS:
        return "The operation was successful";
    case UNINITIALIZED:
        return "NVML was not first initialized with nvmlInit()";
    case INVALID_ARGUMENT:
        return "A supplied argument is invalid";
    case NOT_SUPPORTED:
        return "The requested operation is not available on target device";
    case NOT_FOUND:
        return "A query to find an object was unsuccessful";
    case INSUFFICIENT_SIZE:
        return "An input argument is not large enough";
    case DRIVER_NOT_LOADED:
        return "NVIDIA driver is not loaded";
    }
    return "Unknown Error";
}

static int put(char *target, unsigned length, const char *text) {
    if (users == 0)
        return UNINITIALIZED;
    if (!target)
        return INVALID_ARGUMENT;
    if (strlen(text) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(target, text);
    return SUCCESS;
}

static int give(unsigned *target, unsigned value) {
    if (users == 0)
        return UNINITIALIZED;
    if (!target)
        return INVALID_ARGUMENT;
    *target = value;
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) { return put(version, length, driver); }
int nvmlSystemGetNVMLVersion(char *version, unsigned length) { return put(version, length, driver); }
int nvmlSystemGetCudaDriverVersion(int *version) { return give((unsigned *)version, CUDA_VERSION); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return give((unsigned *)version, CUDA_VERSION); }

int nvmlDeviceGetCount(unsigned *found) { return give(found, count); }
int nvmlDeviceGetCount_v2(unsigned *found) { return give(found, count); }

static int one(struct gpu *found, struct gpu **target) {
    if (users == 0)
        return UNINITIALIZED;
    if (!target)
        return INVALID_ARGUMENT;
    if (!found)
        return NOT_FOUND;
    *target = found;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct gpu **device) {
    return index < count ? one(&gpus[index], device) : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByIndex(unsigned index, struct gpu **device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct gpu **device) {
    struct gpu *found = NULL;
    for (unsigned index = 0; index < count; index++)
        if (!strcmp(gpus[index].uuid, uuid))
            found = &gpus[index];
    return one(found, device);
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *address, struct gpu **device) {
    unsigned domain, bus, slot, function;
    if (sscanf(address, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4)
        return INVALID_ARGUMENT;
    struct gpu *found = NULL;
    for (unsigned index = 0; index < count; index++)
        if (domain == 0 && slot == 0 && bus == FIRST_BUS + gpus[index].minor)
            found = &gpus[index];
    return one(found, device);
}

int nvmlDeviceGetHandleByPciBusId(const char *address, struct gpu **device) {
    return nvmlDeviceGetHandleByPciBusId_v2(address, device);
}

int nvmlDeviceGetIndex(const struct gpu *device, unsigned *index) { return give(index, (unsigned)(device - gpus)); }
int nvmlDeviceGetMinorNumber(const struct gpu *device, unsigned *minor) { return give(minor, device->minor); }

int nvmlDeviceGetUUID(const struct gpu *device, char *uuid, unsigned length) { return put(uuid, length, device->uuid); }

int nvmlDeviceGetName(const struct gpu *device, char *name, unsigned length) {
    (void)device;
    return put(name, length, NAME);
}

int nvmlDeviceGetPciInfo_v3(const struct gpu *device, struct pci *pci) {
    if (!pci)
        return INVALID_ARGUMENT;
    memset(pci, 0, sizeof *pci);
    pci->bus = FIRST_BUS + device->minor;
    pci->id = 0x20b010de;
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", pci->bus & 0xff);
    snprintf(pci->address, sizeof pci->address, "00000000:%02X:00.0", pci->bus);
    return users ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetPciInfo_v2(const struct gpu *device, struct pci_old *pci) {
    struct pci whole;
    int result = nvmlDeviceGetPciInfo_v3(device, &whole);
    memcpy(pci, &whole, sizeof *pci);
    return result;
}

int nvmlDeviceGetPciInfo(const struct gpu *device, struct pci_old *pci) { return nvmlDeviceGetPciInfo_v2(device, pci); }

int nvmlDeviceGetMemoryInfo(const struct gpu *device, struct memory *memory) {
    (void)device;
    if (!memory)
        return INVALID_ARGUMENT;
    *memory = (struct memory){.total = MEMORY, .free = MEMORY};
    return users ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetCudaComputeCapability(const struct gpu *device, int *major, int *minor) {
    (void)device;
    int result = give((unsigned *)major, CAPABILITY_MAJOR);
    return result == SUCCESS ? give((unsigned *)minor, CAPABILITY_MINOR) : result;
}

int nvmlDeviceGetArchitecture(const struct gpu *device, unsigned *architecture) {
    (void)device;
    return give(architecture, ARCHITECTURE_AMPERE);
}

int nvmlDeviceGetBrand(const struct gpu *device, unsigned *brand) {
    (void)device;
    return give(brand, BRAND_UNKNOWN);
}

int nvmlDeviceGetMaxMigDeviceCount(const struct gpu *device, unsigned *devices) {
    (void)device;
    return give(devices, 0);
}

/* The runtime asks this of a GPU that a container names. */
int nvmlDeviceIsMigDeviceHandle(const struct gpu *device, unsigned *is_mig) {
    (void)device;
    return give(is_mig, 0);
}

/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A stand-in for the CUDA driver library: its name is what counts. It says its version and that it has no device. */
enum { SUCCESS = 0, NO_DEVICE = 100, VERSION = 13000 };

int cuDriverGetVersion(int *version) {
    *version = VERSION;
    return SUCCESS;
}

int cuInit(unsigned flags) {
    (void)flags;
    return NO_DEVICE;
}

int cuDeviceGet(int *device, int ordinal) {
    (void)device, (void)ordinal;
    return NO_DEVICE;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)value, (void)attribute, (void)device;
    return NO_DEVICE;
}

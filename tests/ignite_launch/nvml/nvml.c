/* A libnvidia-ml.so.1 for tests: it answers NVML's questions from the environment variable FAKE_NVML.
 *
 * Records are parted by ';', fields by '|': UUID|name|free MiB|total MiB|processes|kind, where kind is "gpu", "mig" for a
 * GPU in MIG mode, or "slice" for a slice of the last such GPU. Free "?" is an unsupported question, and so are
 * processes "?". Without the variable there is no driver; a FAKE_NVML of "error N" makes the start fail with code N.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
enum { MOST = 16 };

typedef struct {
    char uuid[96], name[96], free[32], total[32], processes[32], kind[32];
} Device;

typedef struct {
    unsigned long long total, free, used;
} Memory;

typedef struct {
    unsigned int pid;
    unsigned long long memory;
    unsigned int gpu_instance, compute_instance;
} Process;

static Device devices[MOST];
static unsigned int count;

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    const char *text = getenv("FAKE_NVML");
    count = 0;
    if (text == NULL) return DRIVER_NOT_LOADED;
    int code;
    if (sscanf(text, "error %d", &code) == 1) return code;
    for (; *text && count < MOST; text += strcspn(text, ";"), text += *text == ';') {
        Device *d = &devices[count++];
        if (sscanf(text, "%95[^|]|%95[^|]|%31[^|]|%31[^|]|%31[^|]|%31[^;]", d->uuid, d->name, d->free, d->total,
                   d->processes, d->kind) != 6)
            abort();
    }
    return SUCCESS;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the fake driver"; }

static int is(const Device *d, const char *kind) { return strcmp(d->kind, kind) == 0; }

int nvmlDeviceGetCount_v2(unsigned int *result) {
    *result = 0;
    for (unsigned int i = 0; i < count; i++) *result += !is(&devices[i], "slice");
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device **result) {
    for (unsigned int i = 0; i < count; i++)
        if (!is(&devices[i], "slice") && index-- == 0) return *result = &devices[i], SUCCESS;
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device *d, char *text, unsigned int size) { return snprintf(text, size, "%s", d->uuid), SUCCESS; }
int nvmlDeviceGetName(Device *d, char *text, unsigned int size) { return snprintf(text, size, "%s", d->name), SUCCESS; }

int nvmlDeviceGetMemoryInfo(Device *d, Memory *result) {
    if (d->free[0] == '?') return NOT_SUPPORTED;
    result->total = strtoull(d->total, NULL, 10) << 20;
    result->free = strtoull(d->free, NULL, 10) << 20;
    result->used = result->total - result->free;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, unsigned int *number, Process *result) {
    if (d->processes[0] == '?') return NOT_SUPPORTED;
    unsigned int there = (unsigned int)atoi(d->processes), room = *number;
    *number = there;
    if (there == 0) return SUCCESS;
    if (room < there) return INSUFFICIENT_SIZE;
    memset(result, 0, there * sizeof *result);
    for (unsigned int i = 0; i < there; i++) result[i].pid = 1000 + i;
    return SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *d, unsigned int *number, Process *result) {
    (void)d, (void)result;
    *number = 0;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device *d, unsigned int *current, unsigned int *pending) {
    if (strstr(d->name, "GeForce")) return NOT_SUPPORTED;
    *current = *pending = is(d, "mig");
    return SUCCESS;
}

/* As on an A100: room for seven slices, of which some are made. */
int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned int *result) { return (void)d, *result = 7, SUCCESS; }

int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned int index, Device **result) {
    for (Device *slice = d + 1; slice < devices + count && is(slice, "slice"); slice++)
        if (index-- == 0) return *result = slice, SUCCESS;
    return NOT_FOUND;
}

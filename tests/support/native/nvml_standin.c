/* Stands in for NVIDIA's libnvidia-ml.so.1: the functions that Shardwright calls, by NVML's published interface.
 *
 * Which devices there are is told by SWT_NVML: devices parted by ';', each NAME:MEBIBYTES:MINOR:BUS, and where it is
 * divided ':SLICES=' and its instances, SLICES_OF_IT/MEBIBYTES/INSTANCE, parted by ','. Without SWT_NVML there is no driver.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };

typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;
typedef struct {
    unsigned int multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount, sharedJpegCount,
        sharedOfaCount, gpuInstanceSliceCount, computeInstanceSliceCount;
    unsigned long long memorySizeMB;
} nvmlDeviceAttributes_t;

#define MOST 8
typedef struct unit {
    int is_instance, slices, divided, minor, bus, index, instance, count;
    unsigned long long mebibytes;
    char name[64];
    struct unit *part;
} unit;
static unit devices[MOST], parts[MOST][MOST];
static int count, users;

static void read_instances(unit *device, unit *room, char *text) {
    char *saved = NULL;
    device->divided = 1;
    device->part = room;
    for (char *each = strtok_r(text, ",", &saved); each && device->count < MOST; each = strtok_r(NULL, ",", &saved)) {
        unit *part = &room[device->count];
        if (sscanf(each, "%d/%llu/%d", &part->slices, &part->mebibytes, &part->instance) != 3) continue;
        part->is_instance = 1;
        part->index = device->count++;
        part->minor = device->minor;
    }
}

static nvmlReturn_t started(void) { return users ? SUCCESS : UNINITIALIZED; }

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    const char *told = getenv("SWT_NVML");
    (void)flags;
    if (!told) return DRIVER_NOT_LOADED;
    if (users++) return SUCCESS;
    char *text = strdup(told), *saved = NULL;
    memset(devices, 0, sizeof devices);
    memset(parts, 0, sizeof parts);
    count = 0;
    for (char *each = strtok_r(text, ";", &saved); each && count < MOST; each = strtok_r(NULL, ";", &saved)) {
        unit *device = &devices[count];
        char *divided = strchr(each, '=');
        device->index = count;
        sscanf(each, "%63[^:]:%llu:%d:%x:%d", device->name, &device->mebibytes, &device->minor, (unsigned *)&device->bus,
               &device->slices);
        if (divided) read_instances(device, parts[count], divided + 1);
        count++;
    }
    free(text);
    return SUCCESS;
}
nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
nvmlReturn_t nvmlShutdown(void) { return users ? (users--, SUCCESS) : UNINITIALIZED; }

const char *nvmlErrorString(nvmlReturn_t code) {
    switch (code) {
    case SUCCESS: return "The operation was successful";
    case NOT_SUPPORTED: return "The requested operation is not available on target device";
    case NOT_FOUND: return "A query to find an object was unsuccessful";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    default: return "Unknown Error";
    }
}

static nvmlReturn_t write_text(char *to, unsigned int size, const char *text) {
    if (strlen(text) >= size) return INSUFFICIENT_SIZE;
    strcpy(to, text);
    return SUCCESS;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *to, unsigned int size) { return started() ? UNINITIALIZED : write_text(to, size, "550.00.01"); }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *to) { return started() ? UNINITIALIZED : (*to = (unsigned)count, SUCCESS); }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, unit **to) {
    if (started()) return UNINITIALIZED;
    if (index >= (unsigned)count) return INVALID_ARGUMENT;
    *to = &devices[index];
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMinorNumber(unit *of, unsigned int *to) { return of->is_instance ? INVALID_ARGUMENT : (*to = (unsigned)of->minor, SUCCESS); }
nvmlReturn_t nvmlDeviceGetName(unit *of, char *to, unsigned int size) { return write_text(to, size, of->name); }
nvmlReturn_t nvmlDeviceGetUUID(unit *of, char *to, unsigned int size) {
    char text[80];
    snprintf(text, sizeof text, "%s-%08x-0000-4000-8000-%012x", of->is_instance ? "MIG" : "GPU", (unsigned)of->minor, of->is_instance ? of->index + 1 : 0);
    return write_text(to, size, text);
}
nvmlReturn_t nvmlDeviceGetMemoryInfo(unit *of, nvmlMemory_t *to) {
    to->total = of->mebibytes << 20;
    to->used = 1 << 20;
    to->free = to->total - to->used;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetPciInfo_v3(unit *of, nvmlPciInfo_t *to) {
    memset(to, 0, sizeof *to);
    to->bus = (unsigned)of->bus;
    snprintf(to->busId, sizeof to->busId, "00000000:%02X:00.0", (unsigned)of->bus);
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMigMode(unit *of, unsigned int *now, unsigned int *next) {
    if (!of->slices) return NOT_SUPPORTED;
    *now = *next = (unsigned)of->divided;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(unit *of, unsigned int *to) { *to = (unsigned)of->slices; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(unit *of, unsigned int index, unit **to) {
    if (index == 1 || !of->divided) return NOT_FOUND; /* numbers may have gaps: the second is one */
    index -= index > 1;
    if (index >= (unsigned)of->count) return NOT_FOUND;
    *to = &of->part[index];
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetGpuInstanceId(unit *of, unsigned int *to) { return of->is_instance ? (*to = (unsigned)of->instance, SUCCESS) : NOT_SUPPORTED; }
nvmlReturn_t nvmlDeviceGetComputeInstanceId(unit *of, unsigned int *to) { return of->is_instance ? (*to = 0, SUCCESS) : NOT_SUPPORTED; }
nvmlReturn_t nvmlDeviceGetAttributes_v2(unit *of, nvmlDeviceAttributes_t *to) {
    if (!of->is_instance) return NOT_SUPPORTED;
    memset(to, 0, sizeof *to);
    to->gpuInstanceSliceCount = to->computeInstanceSliceCount = (unsigned)of->slices;
    to->memorySizeMB = of->mebibytes;
    return SUCCESS;
}

/* Preloaded into a training run: stops it in the middle of one operation on the files in its folder.

SOAK_FOLDER   the folder whose files count
SOAK_LOG      a file that gets a line per operation, with the kind of file and the operation; unset: no log
SOAK_STOP     "KIND OPERATION N SHARE": stop in the N-th such operation of this process, after SHARE of its bytes are
              written (a rename or removal: before it if SHARE is less than 1, after it if 1); OPERATION may be "any"
SOAK_PAUSED   a file that is created at the stop and says where; the run continues when it is removed
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define TIMEOUT 120000 /* milliseconds */

static atomic_long operations;

static const char *kind_of(const char *path) {
    const char *folder = getenv("SOAK_FOLDER");
    if (!folder || !path || strncmp(path, folder, strlen(folder)) != 0)
        return NULL;
    const char *name = strrchr(path, '/') + 1;
    if (strstr(name, "tfevents"))
        return "events";
    if (strncmp(name, "events.out.", 11) == 0)
        return "trimming";
    return "checkpoint";
}

static const char *kind_of_descriptor(int descriptor) {
    char link[64], path[PATH_MAX];
    if (descriptor < 3 || !getenv("SOAK_FOLDER"))
        return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return NULL;
    path[length] = 0;
    return kind_of(path);
}

/* Returns the share of this operation after which to stop; -1: do not stop in it. */
static double share_of_stop(const char *kind, const char *operation) {
    char wanted_kind[16], wanted_operation[16], line[64];
    long number;
    double share;
    const char *log = getenv("SOAK_LOG"), *stop = getenv("SOAK_STOP");
    if (!kind)
        return -1;
    if (log) {
        int descriptor = open(log, O_WRONLY | O_APPEND | O_CREAT, 0600);
        int length = snprintf(line, sizeof line, "%s %s\n", kind, operation);
        if (NEXT(write)(descriptor, line, length) != length)
            abort();
        close(descriptor);
    }
    if (!stop || sscanf(stop, "%15s %15s %ld %lf", wanted_kind, wanted_operation, &number, &share) != 4)
        return -1;
    if (strcmp(kind, wanted_kind) || (strcmp(wanted_operation, "any") && strcmp(operation, wanted_operation)))
        return -1;
    return atomic_fetch_add(&operations, 1) + 1 == number ? share : -1;
}

static void pause_here(const char *operation, double share) {
    const char *paused = getenv("SOAK_PAUSED"), *when = share <= 0 ? "before" : share < 1 ? "within" : "after";
    char temporary[PATH_MAX], words[64];
    snprintf(temporary, sizeof temporary, "%s.new", paused);
    int descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int length = snprintf(words, sizeof words, "%s a %s", when, operation);
    if (NEXT(write)(descriptor, words, length) != length || NEXT(rename)(temporary, paused) != 0)
        abort();
    close(descriptor);
    for (int waited = 0; access(paused, F_OK) == 0 && waited < TIMEOUT; waited++)
        usleep(1000);
}

ssize_t write(int descriptor, const void *data, size_t size) {
    double share = share_of_stop(kind_of_descriptor(descriptor), "write");
    if (share < 0)
        return NEXT(write)(descriptor, data, size);
    size_t first = size * share, done = 0;
    while (done < first) {
        ssize_t written = NEXT(write)(descriptor, (const char *)data + done, first - done);
        if (written < 0)
            return written;
        done += written;
    }
    pause_here("write", size ? (double)done / size : share);
    ssize_t rest = done < size ? NEXT(write)(descriptor, (const char *)data + done, size - done) : 0;
    return rest < 0 ? rest : (ssize_t)done + rest;
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t count) {
    double share = share_of_stop(kind_of_descriptor(out), "write");
    if (share >= 0) {
        off64_t size = lseek64(in, 0, SEEK_END);
        ssize_t written = NEXT(sendfile64)(out, in, offset, size * share);
        pause_here("write", share);
        if (written != 0)
            return written;
    }
    return NEXT(sendfile64)(out, in, offset, count);
}

int rename(const char *from, const char *to) {
    double share = share_of_stop(kind_of(from), "rename");
    if (share >= 0 && share < 1)
        pause_here("rename", 0);
    int result = NEXT(rename)(from, to);
    if (share >= 1)
        pause_here("rename", 1);
    return result;
}

int unlink(const char *path) {
    double share = share_of_stop(kind_of(path), "unlink");
    if (share >= 0 && share < 1)
        pause_here("removal", 0);
    int result = NEXT(unlink)(path);
    if (share >= 1)
        pause_here("removal", 1);
    return result;
}

"""A wall clock that jumps, for one process and its children, without being root."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

# Stands before libc's own: adds what a file says to the wall clock, and to no other.
_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offset_s;

__attribute__((constructor)) static void find_offset(void) {
    const char *path = getenv("ERRATA_CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, sizeof *offset_s, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) offset_s = map;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_REALTIME && offset_s) now->tv_sec += *offset_s;
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
"""


class JumpingClock:
    """The wall clock of whatever is started with `env`.

    Example:
        >>> clock = JumpingClock(Path("/tmp/clock"))                      # doctest: +SKIP
        >>> subprocess.Popen([...], env=os.environ | clock.env)
        >>> clock.jump(3_600)
    """

    def __init__(self, directory: Path) -> None:
        """Compiles the shim.

        Raises:
            OSError: there is no C compiler.
        """
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise OSError("a jumping clock is compiled: install a C compiler (cc)")
        self._offset = directory / "offset"
        self.jump(0)
        source, library = directory / "clock.c", directory / "clock.so"
        source.write_text(_SHIM)
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        self.env = {"LD_PRELOAD": str(library), "ERRATA_CLOCK_OFFSET": str(self._offset)}

    def jump(self, seconds: int) -> None:
        """So far from the true time from now on."""
        # In place: the shim has this very file mapped.
        with self._offset.open("r+b" if self._offset.exists() else "w+b") as file:
            file.write(struct.pack("q", seconds))

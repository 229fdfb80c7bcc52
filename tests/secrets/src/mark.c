/* Requests of memcheck that are macros of C: bytes become what must not decide anything, or may. */
#include <stddef.h>
#include <valgrind/memcheck.h>

void sekisho_mark(const void *bytes, size_t len) { VALGRIND_MAKE_MEM_UNDEFINED(bytes, len); }

void sekisho_unmark(const void *bytes, size_t len) { VALGRIND_MAKE_MEM_DEFINED(bytes, len); }

// Calls a hook of the module with nothing but zeros, as no Envoy does: `call_hook FILE SYMBOL`.
#include <dlfcn.h>
#include <stdio.h>

typedef int hook(void *, void *, long, long, long, long, long, long);

int main(int count, char **arguments) {
  void *file = count == 3 ? dlopen(arguments[1], RTLD_NOW) : NULL;
  hook *called = file ? (hook *)dlsym(file, arguments[2]) : NULL;
  if (!called) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  called(NULL, NULL, 0, 0, 0, 0, 0, 0);
  return 0;
}

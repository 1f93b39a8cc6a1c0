#include "base/idle.hpp"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace vmlaunch::base {

namespace {

/// What can be run cannot be written, so that no page of it is this process's own.
int give_back(dl_phdr_info* object, std::size_t /*size*/, void* /*none*/) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = object->dlpi_phdr[i];
    if (part.p_type == PT_LOAD && (part.p_flags & (PF_X | PF_W)) == PF_X) {
      const std::uintptr_t begin = (object->dlpi_addr + part.p_vaddr) / page * page;
      const std::uintptr_t end = object->dlpi_addr + part.p_vaddr + part.p_memsz;
      // The kernel's own object (vdso) is refused.
      static_cast<void>(::madvise(std::bit_cast<void*>(begin), end - begin, MADV_DONTNEED));
    }
  }
  return 0;
}

}  // namespace

void give_back_code() {
  ::dl_iterate_phdr(give_back, nullptr);
}

}  // namespace vmlaunch::base

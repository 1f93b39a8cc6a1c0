#include "launcher/survey/pci_names.hpp"

#include <array>
#include <cstring>
#include <exception>
#include <string_view>

extern "C" {
#include <pci/pci.h>
}

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

/// A pci.ids that libpci cannot read.
class BadNames : public std::exception {};

/// libpci's own would end the process, and it expects that this does not return. For clang only the
/// old spelling of the attribute is part of the type.
__attribute__((noreturn)) void give_up(char* /*format*/, ...) {  // NOLINT(cert-dcl50-cpp)
  throw BadNames();
}

void ignore(char* /*format*/, ...) {}  // NOLINT(cert-dcl50-cpp)

}  // namespace

void PciNames::Close::operator()(pci_access* access) const {
  ::pci_cleanup(access);
}

// No pci_init: it would look for ways to the hardware, and names need none.
PciNames::PciNames(const std::string& file) : access_(::pci_alloc()) {
  access_->error = give_up;
  access_->warning = ignore;
  access_->debug = ignore;
  access_->id_lookup_mode = 0;  // no cache of names in the user's home
  if (!file.empty()) {
    ::pci_set_name_list_path(access_.get(), ::strdup(file.c_str()), 1);
  }
  try {
    if (::pci_load_name_list(access_.get()) == 0) {
      access_.reset();
    }
  } catch (const BadNames&) {
    access_.reset();
  }
}

std::optional<std::string> PciNames::look_up(int what, int id, int second) const {
  if (!access_) {
    return std::nullopt;
  }
  std::array<char, 2048> buffer{};  // lines of pci.ids have at most 1024
  const char* name = ::pci_lookup_name(access_.get(),
                                       buffer.data(),
                                       static_cast<int>(buffer.size()),
                                       what | PCI_LOOKUP_NO_NUMBERS | PCI_LOOKUP_NO_HWDB,
                                       id,
                                       second);
  if (name == nullptr || *name == '\0') {
    return std::nullopt;
  }
  return base::printable(name);
}

std::optional<std::string> PciNames::vendor(std::uint16_t vendor) const {
  return look_up(PCI_LOOKUP_VENDOR, vendor);
}

std::optional<std::string> PciNames::device(std::uint16_t vendor, std::uint16_t device) const {
  return look_up(PCI_LOOKUP_DEVICE, vendor, device);
}

std::optional<std::string> PciNames::device_class(std::uint16_t number) const {
  std::optional<std::string> name = look_up(PCI_LOOKUP_CLASS, number);
  // Of a subclass without a name libpci says "Class [0600]".
  constexpr std::string_view kNumber = " [0600]";
  if (name && name->ends_with(']') && name->size() > kNumber.size()) {
    name->erase(name->size() - kNumber.size());
  }
  return name;
}

}  // namespace vmlaunch::launcher::survey

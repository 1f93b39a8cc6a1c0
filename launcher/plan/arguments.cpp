#include "launcher/plan/arguments.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <utility>

namespace vmlaunch::launcher::plan {

void Arguments::share(const std::string& path) const {
  const std::string normal = std::filesystem::path(path).lexically_normal();
  std::vector<std::string>& shared = plan.qemu.root.shared;
  if (std::find(shared.begin(), shared.end(), normal) == shared.end()) {
    shared.push_back(normal);
  }
}

void Arguments::add(const std::string& argument) {
  plan.qemu.arguments.push_back(argument);
}

void Arguments::add(const std::string& option, const std::string& value) {
  add(option);
  add(value);
}

void Arguments::tell(const std::string& what, const std::string& off) const {
  plan.tuning.push_back(what + "; otherwise: " + off);
}

void Arguments::add_json(const std::string& option, const Json& value) {
  add(option, value.dump());
}

int Arguments::use(FileUse file) {
  file.fd = kFirstFileFd + static_cast<int>(plan.files.size());
  plan.files.push_back(std::move(file));
  return plan.files.back().fd;
}

std::string Arguments::fdset(FileUse file) {
  const std::string number = std::to_string(use(std::move(file)));
  add("-add-fd", "fd=" + number + ",set=" + number);
  return "/dev/fdset/" + number;
}

std::string Arguments::reopened(const std::string& purpose, const std::string& path) {
  FileUse file{purpose, path};
  file.reopened = true;
  const int fd = use(std::move(file));
  return plan.qemu.root.whole_host ? "/proc/self/fd/" + std::to_string(fd) : name_in_root(fd);
}

Json Arguments::device(const char* driver, const std::string& id, std::size_t slot) const {
  std::array<char, 8> address{};
  static_cast<void>(std::snprintf(address.data(), address.size(), "0x%zx", slot));
  return {{"driver", driver},
          {"id", id},
          {"bus", spec.machine == config::Machine::q35 ? "pcie.0" : "pci.0"},
          {"addr", address.data()}};
}

Json Arguments::root_port(const std::string& id,
                          std::size_t slot,
                          std::size_t function,
                          std::size_t chassis) const {
  Json port = device("pcie-root-port", id, slot);
  port["addr"] = port["addr"].get<std::string>() + ".0x" + std::to_string(function);
  port["multifunction"] = true;
  port["chassis"] = chassis;
  return port;
}

}  // namespace vmlaunch::launcher::plan

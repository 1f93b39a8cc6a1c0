#include "launcher/systemd/bus.hpp"

#include <chrono>
#include <system_error>

namespace vmlaunch::launcher::systemd {

namespace {

constexpr std::chrono::microseconds kCallDeadline = std::chrono::seconds(5);

}  // namespace

void require(int result, const std::string& action) {
  if (result < 0) {
    throw std::system_error(-result, std::generic_category(), action);
  }
}

Bus open_bus() {
  sd_bus* bus = nullptr;
  require(sd_bus_open_system(&bus), "connect to the system's bus");
  Bus owned(bus, sd_bus_flush_close_unref);
  require(sd_bus_set_method_call_timeout(bus, kCallDeadline.count()), "set the bus's deadline");
  return owned;
}

}  // namespace vmlaunch::launcher::systemd

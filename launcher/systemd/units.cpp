#include "launcher/systemd/units.hpp"

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "launcher/systemd/bus.hpp"

namespace vmlaunch::launcher::systemd {

namespace {

constexpr const char* kUnit = "org.freedesktop.systemd1.Unit";

/// The properties of one unit, asked one by one.
class Properties {
 public:
  explicit Properties(const std::string& name) : bus_(open_bus()), action_("look at " + name) {
    sd_bus_message* raw = nullptr;
    require(sd_bus_call_method(bus_.get(),
                               kService,
                               kManagerPath,
                               kManager,
                               "LoadUnit",
                               nullptr,
                               &raw,
                               "s",
                               name.c_str()),
            action_);
    const Message reply(raw, sd_bus_message_unref);
    const char* path = nullptr;
    require(sd_bus_message_read(raw, "o", &path), action_);
    path_ = path;
  }

  [[nodiscard]] std::string text(const char* property) const {
    char* value = nullptr;
    require(sd_bus_get_property_string(
                bus_.get(), kService, path_.c_str(), kUnit, property, nullptr, &value),
            action_);
    const std::unique_ptr<char, decltype(&std::free)> owned(value, std::free);
    return value;
  }

  [[nodiscard]] bool flag(const char* property) const {
    int value = 0;
    require(sd_bus_get_property_trivial(
                bus_.get(), kService, path_.c_str(), kUnit, property, nullptr, 'b', &value),
            action_);
    return value != 0;
  }

  /// Its number is 0 where there is none.
  [[nodiscard]] bool has_job() const {
    sd_bus_message* raw = nullptr;
    require(sd_bus_get_property(
                bus_.get(), kService, path_.c_str(), kUnit, "Job", nullptr, &raw, "(uo)"),
            action_);
    const Message reply(raw, sd_bus_message_unref);
    std::uint32_t job = 0;
    require(sd_bus_message_read(raw, "(uo)", &job, nullptr), action_);
    return job != 0;
  }

  /// `type`: of the unit, as systemd's interfaces are called.
  [[nodiscard]] base::CpuSet allowed_cpus(const std::string& type) const {
    sd_bus_message* raw = nullptr;
    const std::string interface = "org.freedesktop.systemd1." + type;
    require(sd_bus_get_property(bus_.get(),
                                kService,
                                path_.c_str(),
                                interface.c_str(),
                                "AllowedCPUs",
                                nullptr,
                                &raw,
                                "ay"),
            action_);
    const Message reply(raw, sd_bus_message_unref);
    const void* bits = nullptr;
    std::size_t size = 0;
    require(sd_bus_message_read_array(raw, 'y', &bits, &size), action_);
    base::CpuSet cpus;
    for (unsigned cpu = 0; cpu < size * 8; ++cpu) {
      if ((static_cast<const std::uint8_t*>(bits)[cpu / 8] >> cpu % 8 & 1) != 0) {
        cpus.insert(cpu);
      }
    }
    return cpus;
  }

 private:
  Bus bus_;
  std::string action_;
  std::string path_;
};

void order(const char* method, const std::string& name) {
  const Bus bus = open_bus();
  require(sd_bus_call_method(bus.get(),
                             kService,
                             kManagerPath,
                             kManager,
                             method,
                             nullptr,
                             nullptr,
                             "ss",
                             name.c_str(),
                             "replace"),
          "ask systemd for " + name);
}

/// As systemd has CPUs: a bit for each.
std::vector<std::uint8_t> to_bits(const base::CpuSet& cpus) {
  std::vector<std::uint8_t> bits(cpus.empty() ? 0 : *cpus.rbegin() / 8 + 1);
  for (const unsigned cpu : cpus) {
    bits[cpu / 8] = static_cast<std::uint8_t>(bits[cpu / 8] | 1U << cpu % 8);
  }
  return bits;
}

/// For the time until the machine is started anew.
void set_properties(const std::string& unit,
                    std::optional<std::uint64_t> weight,
                    const base::CpuSet& cpus) {
  const std::string action = "set the properties of " + unit;
  const Bus bus = open_bus();
  sd_bus_message* raw = nullptr;
  require(sd_bus_message_new_method_call(
              bus.get(), &raw, kService, kManagerPath, kManager, "SetUnitProperties"),
          action);
  const Message call(raw, sd_bus_message_unref);
  const std::vector<std::uint8_t> bits = to_bits(cpus);
  require(sd_bus_message_append(raw, "sb", unit.c_str(), 1), action);
  require(sd_bus_message_open_container(raw, 'a', "(sv)"), action);
  if (weight) {
    require(sd_bus_message_append(raw, "(sv)", "CPUWeight", "t", *weight), action);
  }
  require(sd_bus_message_open_container(raw, 'r', "sv"), action);
  require(sd_bus_message_append(raw, "s", "AllowedCPUs"), action);
  require(sd_bus_message_open_container(raw, 'v', "ay"), action);
  require(sd_bus_message_append_array(raw, 'y', bits.data(), bits.size()), action);
  for (int container = 0; container < 3; ++container) {
    require(sd_bus_message_close_container(raw), action);
  }
  require(sd_bus_call(bus.get(), raw, 0, nullptr, nullptr), action);
}

}  // namespace

Unit look_at_unit(const std::string& name) {
  const Properties unit(name);
  Unit seen;
  // Before the state: a job that ends meanwhile is waited for once more.
  seen.has_job = unit.has_job();
  seen.active_state = unit.text("ActiveState");
  seen.loaded = unit.text("LoadState") == "loaded";
  // Of a transient one nothing is left when it has stopped.
  seen.can_return =
      seen.loaded && unit.flag("CanStart") && unit.flag("CanStop") && !unit.flag("Transient");
  return seen;
}

void stop_unit(const std::string& name) {
  order("StopUnit", name);
}

void start_unit(const std::string& name) {
  // Refused for a unit that systemd has put out of its mind, of which there is nothing to forget.
  static_cast<void>(sd_bus_call_method(open_bus().get(),
                                       kService,
                                       kManagerPath,
                                       kManager,
                                       "ResetFailedUnit",
                                       nullptr,
                                       nullptr,
                                       "s",
                                       name.c_str()));
  order("StartUnit", name);
}

void demand_controllers(const std::string& unit, std::uint64_t weight, const base::CpuSet& cpus) {
  set_properties(unit, weight, cpus);
}

std::map<std::string, base::CpuSet> allowed_cpus(const std::vector<std::string>& units) {
  std::map<std::string, base::CpuSet> all;
  for (const std::string& name : units) {
    const Properties unit(name);
    if (unit.text("ActiveState") == "active") {
      all[name] = unit.allowed_cpus(name.ends_with(".slice") ? "Slice" : "Scope");
    }
  }
  return all;
}

void allow_cpus(const std::string& unit, const base::CpuSet& cpus) {
  set_properties(unit, std::nullopt, cpus);
}

}  // namespace vmlaunch::launcher::systemd

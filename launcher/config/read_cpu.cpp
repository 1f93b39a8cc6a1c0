#include "launcher/config/read_cpu.hpp"

#include <string>
#include <utility>

namespace vmlaunch::launcher::config {

namespace {

constexpr const char* kCpus = "a list of the host's CPUs such as \"2-5,8-11\"";

const std::vector<std::pair<const char*, Policy>>& policy_names() {
  static const std::vector<std::pair<const char*, Policy>> names = {
      {"other", Policy::other}, {"rr", Policy::round_robin}, {"fifo", Policy::fifo}};
  return names;
}

const std::vector<std::pair<const char*, Isolation>>& isolation_names() {
  static const std::vector<std::pair<const char*, Isolation>> names = {
      {"tasks", Isolation::tasks},
      {"interrupts", Isolation::interrupts},
      {"kernel", Isolation::kernel},
      {"frequency", Isolation::frequency}};
  return names;
}

/// true for all, false for none, or an array.
std::vector<Isolation> read_isolate(ObjectReader& reader) {
  const Json* value = reader.raw("isolate");
  if (value == nullptr || *value == false) {
    return {};
  }
  if (value->is_array()) {
    return reader.choices("isolate", isolation_names());
  }
  if (*value != true) {
    reader.report("isolate", "expected true, false or an array, found " + type_of(*value));
    return {};
  }
  std::vector<Isolation> all;
  for (const auto& [name, kind] : isolation_names()) {
    all.push_back(kind);
  }
  return all;
}

/// "auto", or a number.
std::optional<unsigned> read_weight(ObjectReader& reader) {
  const Json* value = reader.raw("weight");
  return value == nullptr || *value == "auto" ? std::nullopt : reader.number("weight", 1, 10000);
}

/// true, false, or an object.
std::optional<Hyperv> read_hyperv(ObjectReader& reader) {
  const Json* value = reader.raw("hyperv");
  if (value == nullptr || *value == false) {
    return std::nullopt;
  }
  Hyperv hyperv;
  if (*value == true) {
    return hyperv;
  }
  if (!value->is_object()) {
    reader.report("hyperv", "expected true, false or an object, found " + type_of(*value));
    return std::nullopt;
  }
  std::vector<std::pair<const char*, std::string>> names;
  names.reserve(kEnlightenments.size());
  for (const char* name : kEnlightenments) {
    names.emplace_back(name, name);
  }
  reader.object("hyperv", [&](ObjectReader& object) {
    const std::vector<std::string> without = object.choices("without", names);
    hyperv.without = {without.begin(), without.end()};
    hyperv.vendor_id = object.value(
        "vendor_id", parse_vendor_id, "1 to 12 printable ASCII characters, no comma or quote");
  });
  return hyperv;
}

/// At least one CPU.
std::optional<base::CpuSet> parse_cpus(std::string_view text) {
  const auto cpus = base::parse_cpu_set(text);
  return cpus && !cpus->empty() ? cpus : std::nullopt;
}

/// An element of a map: a CPU's number, or a list.
std::optional<base::CpuSet> parse_seat(const Json& value) {
  if (value.is_number_unsigned()) {
    return parse_cpus(value.dump());
  }
  return value.is_string() ? parse_cpus(value.get_ref<const std::string&>()) : std::nullopt;
}

/// A word, a set, or an array for each vCPU in its order.
std::optional<Pin> read_pin(ObjectReader& reader) {
  const Json* value = reader.raw("pin");
  if (value == nullptr || *value == "none") {
    return std::nullopt;
  }
  if (*value == "auto") {
    return Pin{Pin::Kind::automatic, {}, {}};
  }
  if (!value->is_array()) {
    const auto set = reader.value(
        "pin", parse_cpus, "\"none\", \"auto\", a list such as \"2-5,8-11\", or an array of CPUs");
    return set ? std::optional(Pin{Pin::Kind::set, *set, {}}) : std::nullopt;
  }
  Pin pin{Pin::Kind::map, {}, {}};
  for (std::size_t i = 0; i < value->size(); ++i) {
    const auto seat = parse_seat((*value)[i]);
    if (!seat) {
      reader.issues().push_back({child(child(reader.pointer(), "pin"), i),
                                 std::string("expected a CPU's number, or ") + kCpus + ", found " +
                                     type_of((*value)[i])});
    }
    pin.map.push_back(seat.value_or(base::CpuSet()));
  }
  return pin;
}

/// "auto", true, false, or an object.
std::optional<Realtime> read_realtime(ObjectReader& reader) {
  const Json* value = reader.raw("realtime");
  if (value == nullptr || *value == "auto") {
    return std::nullopt;
  }
  Realtime realtime;
  if (value->is_boolean()) {
    realtime.policy = *value == true ? Policy::round_robin : Policy::other;
    return realtime;
  }
  if (!value->is_object()) {
    reader.report("realtime",
                  "expected \"auto\", true, false or an object, found " + type_of(*value));
    return std::nullopt;
  }
  reader.object("realtime", [&](ObjectReader& object) {
    realtime.policy = object.choice("policy", policy_names()).value_or(realtime.policy);
    realtime.priority = object.number("priority", 1, 99).value_or(realtime.priority);
    const std::vector<std::pair<const char*, bool>> begins = {{"start", true}, {"started", false}};
    realtime.from_start = object.choice("from", begins).value_or(realtime.from_start);
    realtime.force = object.boolean("force").value_or(realtime.force);
  });
  return realtime;
}

}  // namespace

const char* to_string(Policy policy) {
  for (const auto& [name, meaning] : policy_names()) {
    if (meaning == policy) {
      return name;
    }
  }
  return "";
}

std::vector<std::string> names_of(const std::set<Isolation>& kinds) {
  std::vector<std::string> names;
  for (const auto& [name, kind] : isolation_names()) {
    if (kinds.contains(kind)) {
      names.emplace_back(name);
    }
  }
  return names;
}

void read_cpu(ObjectReader& reader, Config::Cpu& cpu) {
  cpu.model = reader.text("model");
  cpu.sockets = reader.number("sockets", 1, 255);
  cpu.cores = reader.number("cores", 1, 255);
  cpu.threads = reader.number("threads", 1, 255);
  cpu.hide_hypervisor = reader.boolean("hide_hypervisor");
  cpu.hyperv = read_hyperv(reader);
  cpu.pin = read_pin(reader);
  cpu.emulator = reader.value("emulator", parse_cpus, kCpus);
  cpu.realtime = read_realtime(reader);
  cpu.isolate = read_isolate(reader);
  cpu.weight = read_weight(reader);
  cpu.halt_polling = reader.boolean("halt_polling");
  cpu.power_management = reader.boolean_or_auto("power_management");
}

}  // namespace vmlaunch::launcher::config

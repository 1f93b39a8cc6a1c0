#include "launcher/guardian/protocol.hpp"

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <set>

#include "base/packet.hpp"
#include "base/text.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/steps/steps.hpp"
#include "sandbox/policy.hpp"

namespace vmlaunch::launcher::guardian {

namespace {

using plan::FileUse;

/// Disks with all images beneath them, and a few more.
constexpr std::size_t kMostFiles = config::kMostDisks * (1 + config::kMostImages) + 32;
static_assert(kMostFiles + 8 < base::kPacketFdLimit);
constexpr std::size_t kMostSteps = 1024;
constexpr int kHighestFd = 255;

template <class... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};
template <class... Handlers>
Overloaded(Handlers...) -> Overloaded<Handlers...>;

Json encode_file(const FileUse& file) {
  return {{"purpose", wire_text(file.purpose)},
          {"path", wire_text(file.path)},
          {"access", static_cast<int>(file.access)},
          {"create", static_cast<int>(file.create)},
          {"template", wire_text(file.template_path)},
          {"fd", file.fd},
          {"reopened", file.reopened},
          {"qcow2", file.is_qcow2},
          {"direct", file.direct}};
}

FileUse decode_file(const Json& json) {
  Fields fields(json);
  FileUse file;
  file.purpose = fields.text("purpose");
  file.path = fields.text("path");
  file.access = static_cast<FileUse::Access>(fields.number("access", 0, 2));
  file.create = static_cast<FileUse::Create>(fields.number("create", 0, 2));
  file.template_path = fields.text("template");
  file.fd = static_cast<int>(fields.number("fd", plan::kFirstFileFd, kHighestFd));
  file.reopened = fields.boolean("reopened");
  file.is_qcow2 = fields.boolean("qcow2");
  file.direct = fields.boolean("direct");
  fields.finish();
  return file;
}

Json encode_dev(const plan::Dev& dev) {
  Json json = {
      {"nodes", wire_texts(dev.nodes)}, {"devices", Json::array()}, {"usb", Json::array()}};
  for (const base::PciAddress& device : dev.devices) {
    json["devices"].push_back(base::to_string(device));
  }
  for (const config::UsbRule& rule : dev.usb) {
    json["usb"].push_back(to_string(rule));
  }
  return json;
}

Json encode_qemu(const plan::Qemu& qemu) {
  Json json = {{"binary", wire_text(qemu.binary)},
               {"arguments", wire_texts(qemu.arguments)},
               {"environment", wire_texts(qemu.environment)},
               {"serial", qemu.serial_stdio}};
  json["calls"] = {{"mode", static_cast<int>(qemu.calls.mode)}, {"sections", qemu.calls.sections}};
  json["root"] = {{"whole_host", qemu.root.whole_host},
                  {"shared", wire_texts(qemu.root.shared)},
                  {"hidden", wire_texts(qemu.root.hidden)},
                  {"network", qemu.root.network},
                  {"user_namespace", qemu.root.user_namespace}};
  json["hotplug"] = names_of(qemu.hotplug);
  json["dev"] = qemu.dev ? encode_dev(*qemu.dev) : Json(nullptr);
  json["memlock"] = qemu.memlock ? Json(qemu.memlock->bytes) : Json(nullptr);
  json["uid"] = qemu.user.credentials ? Json(qemu.user.credentials->uid) : Json(nullptr);
  return json;
}

plan::Dev decode_dev(const Json& json) {
  Fields fields(json);
  plan::Dev dev{fields.texts("nodes"), {}, {}};
  for (const std::string& name : dev.nodes) {
    if (name != "kvm" && name != "vfio/vfio") {
      throw ProtocolError("a node that no plan has");
    }
  }
  for (const std::string& text : fields.texts("devices")) {
    const auto address = base::parse_pci_address(text);
    if (!address) {
      throw ProtocolError("not a PCI address");
    }
    dev.devices.push_back(*address);
  }
  for (const std::string& text : fields.texts("usb")) {
    const auto rule = config::parse_usb_rule(text);
    if (!rule || dev.usb.size() == config::kMostUsbDevices) {
      throw ProtocolError("not a rule about USB devices, or too many");
    }
    dev.usb.push_back(*rule);
  }
  fields.finish();
  return dev;
}

plan::Root decode_root(const Json& json) {
  Fields fields(json);
  plan::Root root;
  root.whole_host = fields.boolean("whole_host");
  root.shared = fields.texts("shared");
  root.hidden = fields.texts("hidden");
  root.network = fields.boolean("network");
  root.user_namespace = fields.boolean("user_namespace");
  fields.finish();
  for (const auto* paths : {&root.shared, &root.hidden}) {
    for (const std::string& path : *paths) {
      const bool is_normal = std::filesystem::path(path).lexically_normal().string() == path;
      if (!path.starts_with('/') || path.ends_with('/') || !is_normal || path == "/proc" ||
          path.starts_with("/proc/")) {
        throw ProtocolError("a path that QEMU's root folder does not have");
      }
    }
  }
  return root;
}

plan::Calls decode_calls(const Json& json) {
  Fields fields(json);
  plan::Calls calls;
  calls.mode = static_cast<config::Sandbox>(fields.number("mode", 0, 2));
  for (const std::string& section : fields.texts("sections")) {
    if (!sandbox::own_policy().sections.contains(section)) {
      throw ProtocolError("a section that the policy does not have");
    }
    calls.sections.insert(section);
  }
  fields.finish();
  return calls;
}

std::set<config::Hotplug> decode_hotplug(const std::vector<std::string>& texts) {
  std::set<config::Hotplug> kinds;
  for (const auto& [name, kind] : config::hotplug_names()) {
    if (std::find(texts.begin(), texts.end(), name) != texts.end()) {
      kinds.insert(kind);
    }
  }
  if (kinds.size() != texts.size()) {
    throw ProtocolError("something to plug in that no plan has");
  }
  return kinds;
}

plan::Qemu decode_qemu(const Json& json) {
  Fields fields(json);
  plan::Qemu qemu;
  qemu.binary = fields.text("binary");
  qemu.arguments = fields.texts("arguments");
  qemu.environment = fields.texts("environment");
  qemu.serial_stdio = fields.boolean("serial");
  qemu.root = decode_root(fields.any("root"));
  qemu.calls = decode_calls(fields.any("calls"));
  qemu.hotplug = decode_hotplug(fields.texts("hotplug"));
  if (const Json& dev = fields.any("dev"); !dev.is_null()) {
    qemu.dev = decode_dev(dev);
  }
  if (!fields.any("memlock").is_null()) {
    qemu.memlock = base::ByteSize{fields.number("memlock", 0, INT64_MAX)};
  }
  if (!fields.any("uid").is_null()) {
    const auto uid = static_cast<uid_t>(fields.number("uid", 0, UINT32_MAX - 1));
    qemu.user.credentials = sandbox::Credentials{uid, 0, {}};
  }
  fields.finish();
  return qemu;
}

Json encode_placement(const plan::Placement& placement) {
  Json vcpus = Json::array();
  for (const base::CpuSet& cpus : placement.vcpus) {
    vcpus.push_back(base::to_string(cpus));
  }
  return {{"vcpus", vcpus},
          {"rest", base::to_string(placement.rest)},
          {"policy", static_cast<int>(placement.policy)},
          {"priority", placement.priority}};
}

base::CpuSet decode_cpus(const std::string& text) {
  const auto cpus = base::parse_cpu_set(text);
  if (!cpus || cpus->empty()) {
    throw ProtocolError("not a set of CPUs");
  }
  return *cpus;
}

plan::Placement decode_placement(const Json& json) {
  Fields fields(json);
  plan::Placement placement;
  for (const std::string& text : fields.texts("vcpus")) {
    placement.vcpus.push_back(decode_cpus(text));
  }
  const std::string rest = fields.text("rest");
  placement.policy = static_cast<config::Policy>(fields.number("policy", 0, 2));
  placement.priority = static_cast<unsigned>(fields.number("priority", 0, 99));
  fields.finish();
  if (placement.pinned()) {
    placement.rest = decode_cpus(rest);
  }
  const bool fits = placement.realtime() == (placement.priority != 0) &&
                    (placement.pinned() || (rest.empty() && !placement.realtime()));
  if (!fits || placement.vcpus.size() > config::kMostVcpus) {
    throw ProtocolError("a placement that no plan has");
  }
  return placement;
}

Json encode_deadlines(const plan::Deadlines& deadlines) {
  return {{"powerdown", deadlines.powerdown.count()},
          {"powerdown_again", deadlines.powerdown_again.count()},
          {"quit", deadlines.quit.count()},
          {"terminate", deadlines.terminate.count()},
          {"kill", deadlines.kill.count()}};
}

plan::Deadlines decode_deadlines(const Json& json) {
  constexpr std::uint64_t kLongest = 1000 * std::uint64_t{3600000};
  Fields fields(json);
  const auto time = [&](const char* key) {
    return base::Milliseconds(static_cast<std::int64_t>(fields.number(key, 0, kLongest)));
  };
  plan::Deadlines deadlines;
  deadlines.powerdown = time("powerdown");
  deadlines.powerdown_again = time("powerdown_again");
  deadlines.quit = time("quit");
  deadlines.terminate = time("terminate");
  deadlines.kill = time("kill");
  fields.finish();
  return deadlines;
}

std::string read_vm_name(Fields& fields, const char* key) {
  std::string name = fields.text(key);
  if (!config::is_vm_name(name)) {
    throw ProtocolError("not a VM's name");
  }
  return name;
}

steps::Step decode_step(const Json& json, const std::string& vm) {
  steps::Step step = steps::read_step(json);
  if (!step->fits_plan_of(vm)) {
    throw ProtocolError("a step that is no part of this plan");
  }
  return step;
}

/// QEMU gets nodes only of what the steps keep from others and bring back.
void require_steps_for(const plan::Dev& dev, const std::vector<steps::Step>& steps) {
  const auto has = [&](const steps::Step& step) {
    return std::find(steps.begin(), steps.end(), step) != steps.end();
  };
  for (const base::PciAddress& device : dev.devices) {
    if (!has(steps::keep_awake(device))) {
      throw ProtocolError("a device of QEMU's that no step takes");
    }
  }
  for (const config::UsbRule& rule : dev.usb) {
    if (!has(steps::lend_usb(rule, false)) && !has(steps::lend_usb(rule, true))) {
      throw ProtocolError("a device of QEMU's that no step takes");
    }
  }
}

Json encode_seal(const Seal& seal) {
  Json files = Json::array();
  for (const FileUse& file : seal.plan.files) {
    files.push_back(encode_file(file));
  }
  Json steps = Json::array();
  for (const steps::Step& step : seal.plan.steps) {
    steps.push_back(steps::to_json(step));
  }
  return {{"do", "seal"},
          {"config", wire_text(seal.config_name)},
          {"name", wire_text(seal.plan.name)},
          {"placement", encode_placement(seal.plan.placement)},
          {"steps", steps},
          {"files", files},
          {"qemu", encode_qemu(seal.plan.qemu)},
          {"deadlines", encode_deadlines(seal.plan.deadlines)},
          {"restarts", seal.plan.restarts},
          {"program_opened", seal.program_opened},
          {"opened", seal.opened}};
}

Seal decode_seal(Fields& fields) {
  Seal seal;
  seal.config_name = fields.text("config");
  seal.plan.name = read_vm_name(fields, "name");
  for (const Json& step : fields.array("steps", kMostSteps)) {
    seal.plan.steps.push_back(decode_step(step, seal.plan.name));
  }
  seal.plan.placement = decode_placement(fields.any("placement"));
  std::set<int> numbers;
  for (const Json& file : fields.array("files", kMostFiles)) {
    seal.plan.files.push_back(decode_file(file));
    if (!numbers.insert(seal.plan.files.back().fd).second) {
      throw ProtocolError("a descriptor's number stands twice");
    }
  }
  seal.plan.qemu = decode_qemu(fields.any("qemu"));
  if (seal.plan.qemu.dev) {
    require_steps_for(*seal.plan.qemu.dev, seal.plan.steps);
  }
  seal.plan.deadlines = decode_deadlines(fields.any("deadlines"));
  seal.plan.restarts = fields.boolean("restarts");
  seal.program_opened = fields.boolean("program_opened");
  std::size_t next = 0;
  for (const std::uint64_t index : fields.numbers("opened", 0, kMostFiles)) {
    if (index < next || index >= seal.plan.files.size()) {
      throw ProtocolError("\"opened\" is not a rising list of the plan's files");
    }
    seal.opened.push_back(index);
    next = index + 1;
  }
  return seal;
}

Schedule decode_schedule(Fields& fields) {
  Schedule request;
  for (const std::uint64_t thread : fields.numbers("vcpus", 1, INT32_MAX)) {
    request.vcpus.push_back(static_cast<pid_t>(thread));
  }
  request.realtime = fields.boolean("realtime");
  return request;
}

Signal decode_signal(Fields& fields) {
  const Signal request{static_cast<int>(fields.number("signal", 1, 64))};
  if (request.signal != SIGTERM && request.signal != SIGKILL) {
    throw ProtocolError("only SIGTERM and SIGKILL may be sent");
  }
  return request;
}

Request decode_known(const std::string& what, Fields& fields) {
  if (what == "begin") {
    const std::string vm = read_vm_name(fields, "vm");
    const bool dry = fields.boolean("dry");
    return Begin{vm, dry, fields.boolean("force_tainted")};
  }
  if (what == "seal") {
    return decode_seal(fields);
  }
  if (what == "apply") {
    return Apply{fields.number("step", 0, kMostSteps)};
  }
  if (what == "spawn") {
    return Spawn{};
  }
  if (what == "schedule") {
    return decode_schedule(fields);
  }
  if (what == "started") {
    return Started{};
  }
  if (what == "place-interrupts") {
    return PlaceInterrupts{};
  }
  if (what == "stop") {
    return Stop{};
  }
  if (what == "filter-phase") {
    return FilterPhase{fields.boolean("open")};
  }
  if (what == "usb-changed") {
    return UsbChanged{};
  }
  if (what == "restart") {
    return Restart{};
  }
  if (what == "signal") {
    return decode_signal(fields);
  }
  if (what == "status") {
    return Status{};
  }
  if (what == "undo") {
    return Undo{fields.boolean("keep_files")};
  }
  throw ProtocolError("an unknown request");
}

/// Image headers are bytes, not text: two hexadecimal digits for each.
std::string to_hex(const std::string& bytes) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += {kDigits[byte >> 4U], kDigits[byte & 0xfU]};
  }
  return text;
}

std::string from_hex(const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const std::string_view pair = std::string_view(text).substr(i, 2);
    const auto byte = pair.size() == 2 ? base::parse_number<std::uint8_t>(pair, 16) : std::nullopt;
    if (!byte) {
      throw ProtocolError("not hexadecimal");
    }
    bytes += static_cast<char>(*byte);
  }
  return bytes;
}

Json encode_facts(const Sealed& sealed) {
  Json files = Json::array();
  for (const FileFacts& facts : sealed.files) {
    files.push_back({{"index", facts.index}, {"head", to_hex(facts.head)}});
  }
  return files;
}

Sealed decode_sealed(Fields& fields) {
  Sealed sealed;
  for (const Json& file : fields.array("files", kMostFiles)) {
    Fields facts(file);
    sealed.files.push_back({facts.number("index", 0, kMostFiles), from_hex(facts.text("head"))});
    facts.finish();
  }
  return sealed;
}

CallRefused decode_refused_call(Fields& fields) {
  CallRefused refused;
  refused.name = fields.text("name");
  refused.what.call.number = static_cast<int>(fields.number("number", 0, INT32_MAX));
  const std::vector<std::uint64_t> arguments = fields.numbers("arguments", 0, UINT64_MAX);
  if (arguments.size() != refused.what.call.arguments.size()) {
    throw ProtocolError("a system call has six arguments");
  }
  std::copy(arguments.begin(), arguments.end(), refused.what.call.arguments.begin());
  refused.what.outcome = static_cast<sandbox::RefusedCall::Outcome>(fields.number("outcome", 0, 4));
  return refused;
}

Reply decode_known_reply(const std::string& what, Fields& fields) {
  if (what == "begun") {
    return Begun{fields.texts("leftovers")};
  }
  if (what == "sealed") {
    return decode_sealed(fields);
  }
  if (what == "applied") {
    return Applied{fields.number("step", 0, kMostSteps)};
  }
  if (what == "spawned") {
    return Spawned{static_cast<pid_t>(fields.number("pid", 1, INT32_MAX))};
  }
  if (what == "done") {
    Done done{static_cast<ExitCode>(fields.number("code", 0, 255)), fields.texts("leftovers")};
    done.again = fields.boolean("again");
    return done;
  }
  if (what == "status") {
    StatusReply status{fields.text("state"), -1};
    status.pid = static_cast<pid_t>(fields.number("pid", 0, INT32_MAX));
    return status;
  }
  if (what == "refused") {
    return Refused{static_cast<ExitCode>(fields.number("code", 0, 255)), fields.text("message")};
  }
  if (what == "exited") {
    return Exited{{static_cast<int>(fields.number("code", 0, 255)),
                   static_cast<int>(fields.number("signal", 0, 128))}};
  }
  if (what == "waiting") {
    return Waiting{fields.text("text")};
  }
  if (what == "call") {
    return decode_refused_call(fields);
  }
  throw ProtocolError("an unknown reply");
}

Json parse_object(const std::string& bytes) {
  // The library takes a NUL for the end.
  const bool whole = bytes.find('\0') == std::string::npos;
  Json json = whole ? Json::parse(bytes, nullptr, false) : Json();
  if (!json.is_object()) {
    throw ProtocolError("a packet is not a JSON object");
  }
  return json;
}

/// What `read` makes of all fields of one object.
template <typename Message, typename Read>
Message decode(const std::string& bytes, Read read) {
  const Json json = parse_object(bytes);
  try {
    Fields fields(json);
    Message message = read(fields);
    fields.finish();
    return message;
  } catch (const FormError& error) {
    throw ProtocolError(error.what());
  }
}

}  // namespace

std::string encode(const Request& request) {
  const Json json = std::visit(Overloaded{
                                   [](const Begin& begin) {
                                     return Json{{"do", "begin"},
                                                 {"vm", wire_text(begin.vm)},
                                                 {"dry", begin.dry},
                                                 {"force_tainted", begin.force_tainted}};
                                   },
                                   [](const Seal& seal) { return encode_seal(seal); },
                                   [](const Apply& apply) {
                                     return Json{{"do", "apply"}, {"step", apply.step}};
                                   },
                                   [](const Spawn&) {
                                     return Json{{"do", "spawn"}};
                                   },
                                   [](const Schedule& schedule) {
                                     return Json{{"do", "schedule"},
                                                 {"vcpus", schedule.vcpus},
                                                 {"realtime", schedule.realtime}};
                                   },
                                   [](const Started&) {
                                     return Json{{"do", "started"}};
                                   },
                                   [](const PlaceInterrupts&) {
                                     return Json{{"do", "place-interrupts"}};
                                   },
                                   [](const Stop&) {
                                     return Json{{"do", "stop"}};
                                   },
                                   [](const FilterPhase& phase) {
                                     return Json{{"do", "filter-phase"}, {"open", phase.open}};
                                   },
                                   [](const Restart&) {
                                     return Json{{"do", "restart"}};
                                   },
                                   [](const UsbChanged&) {
                                     return Json{{"do", "usb-changed"}};
                                   },
                                   [](const Signal& signal) {
                                     return Json{{"do", "signal"}, {"signal", signal.signal}};
                                   },
                                   [](const Status&) {
                                     return Json{{"do", "status"}};
                                   },
                                   [](const Undo& undo) {
                                     return Json{{"do", "undo"}, {"keep_files", undo.keep_files}};
                                   },
                               },
                               request);
  return json.dump();
}

std::string encode(const Reply& reply) {
  const Json json = std::visit(
      Overloaded{
          [](const Begun& begun) {
            return Json{{"is", "begun"}, {"leftovers", wire_texts(begun.leftovers)}};
          },
          [](const Sealed& sealed) {
            return Json{{"is", "sealed"}, {"files", encode_facts(sealed)}};
          },
          [](const Applied& applied) {
            return Json{{"is", "applied"}, {"step", applied.step}};
          },
          [](const Spawned& spawned) {
            return Json{{"is", "spawned"}, {"pid", spawned.pid}};
          },
          [](const Done& done) {
            return Json{{"is", "done"},
                        {"code", static_cast<int>(done.code)},
                        {"leftovers", wire_texts(done.leftovers)},
                        {"again", done.again}};
          },
          [](const StatusReply& status) {
            return Json{{"is", "status"},
                        {"state", wire_text(status.state)},
                        {"pid", std::max(status.pid, 0)}};
          },
          [](const Refused& refused) {
            return Json{{"is", "refused"},
                        {"code", static_cast<int>(refused.code)},
                        {"message", wire_text(refused.message)}};
          },
          [](const Exited& exited) {
            return Json{
                {"is", "exited"}, {"code", exited.status.code}, {"signal", exited.status.signal}};
          },
          [](const Waiting& waiting) {
            return Json{{"is", "waiting"}, {"text", wire_text(waiting.text)}};
          },
          [](const CallRefused& refused) {
            return Json{{"is", "call"},
                        {"name", wire_text(refused.name)},
                        {"number", refused.what.call.number},
                        {"arguments", refused.what.call.arguments},
                        {"outcome", static_cast<int>(refused.what.outcome)}};
          },
      },
      reply);
  return json.dump();
}

std::string encode(const Identity& identity) {
  const sandbox::Credentials& user = identity.user.credentials;
  return Json{{"privileged", identity.privileged},
              {"invoker", identity.invoker},
              {"uid", user.uid},
              {"gid", user.gid},
              {"groups", user.groups}}
      .dump();
}

Identity decode_identity(const std::string& bytes) {
  return decode<Identity>(bytes, [](Fields& fields) {
    Identity identity{fields.boolean("privileged"), {}, fields.boolean("invoker")};
    sandbox::Credentials& user = identity.user.credentials;
    user.uid = static_cast<uid_t>(fields.number("uid", 0, UINT32_MAX - 1));
    user.gid = static_cast<gid_t>(fields.number("gid", 0, UINT32_MAX - 1));
    for (const std::uint64_t group : fields.numbers("groups", 0, UINT32_MAX - 1)) {
      user.groups.push_back(static_cast<gid_t>(group));
    }
    return identity;
  });
}

Request decode_request(const std::string& bytes) {
  return decode<Request>(bytes,
                         [](Fields& fields) { return decode_known(fields.text("do"), fields); });
}

Reply decode_reply(const std::string& bytes) {
  return decode<Reply>(
      bytes, [](Fields& fields) { return decode_known_reply(fields.text("is"), fields); });
}

}  // namespace vmlaunch::launcher::guardian

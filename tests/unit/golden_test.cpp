#include "tests/support/golden.hpp"

#include <algorithm>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "base/file.hpp"
#include "launcher/config/effective.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/plan/plan.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/hosts.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::launcher {
namespace {

constexpr gid_t kKvmGroup = 104;

/// Where the examples stand here, so that no text depends on where they really are.
constexpr const char* kExamples = "/@ROOT@/configs/";

void add_a_laptop(tests::PciTree& tree) {
  tests::add_laptop(tree);
}

survey::Node memory_node() {
  survey::Node node;
  node.available = {32 * base::kGiB};
  node.pools = {{{2 * base::kMiB}, 0, 0, 0, {}}, {{base::kGiB}, 0, 0, 0, {}}};
  return node;
}

survey::Cpus sixteen_cores() {
  tests::PciTree tree;
  tests::add_two_die_desktop(tree);
  const base::Tree root = tree.tree();
  survey::Reader reader(root);
  survey::Cpus cpus = survey::look_at_cpus(reader);
  cpus.isolated.clear();
  return cpus;
}

survey::Survey host(bool has_kvm, void (*add_devices)(tests::PciTree&) = add_a_laptop) {
  survey::Survey survey;
  survey.cgroup = true;
  survey.kvm.node = has_kvm;
  survey.kvm.usable_by_caller = has_kvm;
  survey.kvm.vendor_module = has_kvm;
  tests::PciTree tree;
  add_devices(tree);
  survey.pci = survey::look_at_pci(tree.tree());
  survey.screen = {{{0, 1, 0, 0}}, {"simple-framebuffer.0"}};
  survey.session = {true, "/system.slice/vmlaunch.service", false, "/vmlaunch", "gdm.service"};
  survey.nodes = {memory_node()};
  survey.cpus = 4;
  survey.host_cpus = sixteen_cores();
  survey.cpu_controllers = true;
  survey.partitions = true;
  survey.uefi = {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"};
  survey.block_devices = {"/dev/disk/by-id/nvme-EXAMPLE_SSD_1TB_S000000"};
  survey.sound_servers = {"/run/user/1000/pulse/native"};
  survey.links["br0"] = {true, true, false, false, true};
  survey.links["enp3s0"] = {true, false, false, false, true};
  survey.vhost_net = true;
  return survey;
}

Identity alice() {
  return {false, {"alice", {1000, 1000, {1000, kKvmGroup}}}, true};
}

Identity sudo_alice() {
  return {true, {"alice", {1000, 1000, {1000, kKvmGroup}}}, true};
}

/// Root without a person behind it: QEMU has a uid of its own.
Identity root() {
  return {true, {"uid 1880000042", {1880000042, 1880000042, {}}}, false};
}

config::VmSpec read(const std::string& path, const std::string& place) {
  return config::load(config::Document(place, tests::read_source(path)), place);
}

std::vector<std::string> examples() {
  std::vector<std::string> names;
  for (const std::string& file : tests::sources_in("configs", ".json")) {
    if (!file.ends_with(".schema.json")) {
      names.push_back(file.substr(0, file.size() - 5));
    }
  }
  return names;
}

/// To take devices or memory from the host, and to make network links.
bool needs_root(const config::VmSpec& spec) {
  return !spec.pci.empty() || spec.memory.hugepages || !spec.cpu.isolate.empty() ||
         std::any_of(spec.network.begin(), spec.network.end(), [](const auto& nic) {
           return nic.kind == config::NicKind::bridge || nic.kind == config::NicKind::macvtap;
         });
}

/// What the library makes of the filter's rules is its own affair.
void check_plan(const std::string& name, const plan::Plan& plan) {
  const std::regex filter(" \\(a filter of [0-9]+ instructions, [0-9a-f]{16}\\)");
  tests::check_golden("golden/" + name + ".txt",
                      std::regex_replace(plan::to_text(plan), filter, ""));
  config::Json json = plan::to_json(plan);
  CHECK(json["qemu"].erase("filter") == 1);
  tests::check_golden("golden/" + name + ".json", json.dump(2) + "\n");
}

TEST_CASE("plan: every example has the plan that is on record", "[plan]") {
  REQUIRE_FALSE(examples().empty());
  for (const std::string& name : examples()) {
    INFO(name);
    const config::VmSpec spec =
        read("configs/" + name + ".json", std::string(kExamples) + name + ".json");
    const Identity identity = needs_root(spec) ? sudo_alice() : alice();
    check_plan(name, plan::make_plan(spec, host(true), identity, Authority::user));
    tests::check_golden("golden/" + name + ".effective.json",
                        config::effective(spec).dump(2) + "\n");
  }
}

TEST_CASE("plan: as root without KVM, QEMU has a uid of its own and runs in software", "[plan]") {
  const config::VmSpec spec = read("configs/demo.json", std::string(kExamples) + "demo.json");
  check_plan("demo.root-tcg", plan::make_plan(spec, host(false), root(), Authority::root));
}

/// The example for a GPU, with another card's address and ids.
config::VmSpec gpu_example(const std::string& address, const std::string& ids) {
  std::string text = tests::read_source("configs/gpu.json");
  for (const auto& [old, now] : {std::pair("01:00.0", address), std::pair("10de:1ba1", ids)}) {
    const std::size_t place = text.find(old);
    REQUIRE(place != std::string::npos);
    text.replace(place, std::string(old).size(), now);
  }
  const std::string place = std::string(kExamples) + "gpu.json";
  return config::load(config::Document(place, text), place);
}

TEST_CASE("plan: a GPU of each host that was published is given as on record", "[plan]") {
  struct Row {
    const char* name;
    void (*add)(tests::PciTree&);
    const char* address;
    const char* ids;
  };
  for (const Row& row :
       {Row{"gpu.hybrid-desktop", tests::add_hybrid_desktop, "01:00.0", "10de:2482"},
        Row{"gpu.two-die-desktop", tests::add_two_die_desktop, "01:00.0", "1002:744c"},
        Row{"gpu.two-socket-server", tests::add_two_socket_server, "82:00.0", "10de:2184"},
        Row{"gpu.four-core-desktop", tests::add_four_core_desktop, "01:00.0", "10de:2184"},
        // Its functions share their reset, so all that the laptop has on that card goes with it.
        Row{"gpu.one-gpu-laptop", tests::add_one_gpu_laptop, "04:00.0", "1002:1638"}}) {
    INFO(row.name);
    config::VmSpec spec = gpu_example(row.address, row.ids);
    const survey::Survey survey = host(true, row.add);
    try {
      static_cast<void>(plan::make_plan(spec, survey, sudo_alice(), Authority::user));
    } catch (const Failure& failure) {
      tests::check_golden("golden/" + std::string(row.name) + ".refusal.txt",
                          std::string(failure.what()) + "\n");
      spec.single_gpu = true;
    }
    check_plan(row.name, plan::make_plan(spec, survey, sudo_alice(), Authority::user));
  }
}

TEST_CASE("plan: every plan on record belongs to an example", "[plan]") {
  const std::vector<std::string> names = examples();
  for (const std::string& file : tests::sources_in("tests/data/golden", "")) {
    INFO(file);
    CHECK(std::find(names.begin(), names.end(), file.substr(0, file.find('.'))) != names.end());
  }
}

TEST_CASE("config: a config with every key is accepted", "[config]") {
  const config::VmSpec spec = read("tests/data/full.json", "/vm/full.json");
  CHECK(spec.name == "full");
  CHECK(spec.cpu.count() == 8);
  CHECK(spec.linux_boot->initrd == "/vm/initrd.gz");
  CHECK(spec.uefi->vars == "/vm/full_VARS.fd");
  CHECK(spec.disks.size() == 3);
  CHECK(spec.network.size() == 5);
  CHECK(spec.run_as == "alice");
  CHECK(spec.single_gpu);
  CHECK(spec.stop_units ==
        std::vector<std::string>{"nvidia-persistenced.service", "foo@bar-\\x20.socket"});
}

TEST_CASE("config: every form that a key may have is accepted", "[config]") {
  const auto accepts = [](const std::string& text) {
    INFO(text);
    CHECK_NOTHROW(config::load(config::Document("form", text), "/vm/form.json"));
  };
  accepts("{}");
  accepts("\xEF\xBB\xBF{ /* comments */ } // of both kinds");
  for (const char* value : {R"("none")", "[]", R"([{ "user": {} }])"}) {
    accepts(std::string(R"({ "network": )") + value + "}");
  }
  for (const char* value : {R"("none")",
                            R"("gtk")",
                            R"("sdl")",
                            R"({ "vnc": "127.255.255.255:65535" })",
                            R"({ "spice": "127.0.0.1:5900" })",
                            R"({ "spice": "127.0.0.1:5930", "usb_redirection": 4 })"}) {
    accepts(std::string(R"({ "display": )") + value + "}");
  }
  for (const char* value : {R"("none")", R"("stdio")", R"({ "file": "a" })"}) {
    accepts(std::string(R"({ "serial": )") + value + "}");
  }
  for (const char* value : {R"("alice")", R"("1000")", "1000", "4294967294"}) {
    accepts(std::string(R"({ "run_as": )") + value + "}");
  }
  for (const char* value : {"16M", "16777216", "16384K", "16MiB", "0016M", "1T", "8388607T"}) {
    accepts(std::string(R"({ "memory": { "size": ")") + value + R"(" } })");
  }
  for (const char* value : {"0s", "0ms", "007m", "1000h", "3600000000ms"}) {
    accepts(std::string(R"({ "stop": { "timeout": ")") + value + R"(" } })");
  }
  for (const char* value :
       {R"({ "cores": 255 })", R"({ "sockets": 5, "cores": 17, "threads": 3 })"}) {
    accepts(std::string(R"({ "cpu": )") + value + "}");
  }
  for (const char* value : {"true", "false", "{}", R"({ "vendor_id": "a b=c{}[]:;~" })"}) {
    accepts(std::string(R"({ "cpu": { "hyperv": )") + value + "} }");
  }
  for (const char* value : {R"("type": "cdrom")",
                            R"("type": "cdrom", "format": "raw", "readonly": true, "bus": "sata")",
                            R"("type": "cdrom", "bus": "virtio-scsi", "iothread": true)",
                            R"("type": "cdrom", "cache": "none", "aio": "native")",
                            R"("format": "qcow2", "bus": "sata", "iothread": false)"}) {
    accepts(std::string(R"({ "disks": [{ "path": "a", )") + value + "}] }");
  }
  for (const char* value : {"none", "vga", "qxl", "virtio"}) {
    accepts(std::string(R"({ "video": ")") + value +
            R"(", "display": { "vnc": "127.0.0.1:5900" } })");
  }
  accepts(R"({ "pci": [{ "device": "04:00.0", "x_vga": true, "rombar": false }] })");
  accepts(R"({ "audio": { "backend": "none" }, "rtc": {} })");
  accepts(base::read_file(SOURCE_DIR "/tests/data/extra-args.json"));
  accepts(base::read_file(SOURCE_DIR "/tests/data/full-spice.json"));
  accepts(R"({ "name": "_aB3.-", "firmware": { "uefi": false } })");
  accepts(R"({ "name": ")" + std::string(64, 'a') + R"(" })");
}

TEST_CASE("config: with every default written out it means the same", "[config]") {
  std::vector<std::string> files = {"tests/data/full.json"};
  for (const std::string& name : examples()) {
    files.push_back("configs/" + name + ".json");
  }
  for (const std::string& file : files) {
    INFO(file);
    const config::Json effective =
        config::effective(read(file, std::string(kExamples) + "vm.json"));
    const config::Document again("effective", effective.dump());
    CHECK(config::effective(config::load(again, "/elsewhere/vm.json")) == effective);
  }
}

}  // namespace
}  // namespace vmlaunch::launcher

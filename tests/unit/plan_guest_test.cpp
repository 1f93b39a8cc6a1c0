#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "launcher/plan/plan.hpp"
#include "tests/support/hosts.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/unit/plan_of.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using namespace tests;

TEST_CASE("plan: the CPU model follows the accelerator, and \"host\" becomes \"max\" in software",
          "[plan]") {
  const std::string warning = "CPU model \"host\" needs KVM: \"max\" is used instead";
  struct Row {
    const char* model;
    const char* with_kvm;
    const char* in_software;
    bool warned;
  };
  for (const Row& row : {
           Row{"", "host", "max", false},
           Row{"host", "host", "max", true},
           Row{"host,-vmx,migratable=off",
               "host,-vmx,migratable=off",
               "max,-vmx,migratable=off",
               true},
           Row{"hostile", "hostile", "hostile", false},
           Row{"max", "max", "max", false},
           Row{"qemu64,+host", "qemu64,+host", "qemu64,+host", false},
       }) {
    INFO(row.model);
    const std::string model = row.model;
    const std::string cpu = model.empty() ? "" : R"("cpu": {"model": ")" + model + "\"},";
    const Plan kvm = plan_of("{" + cpu + R"("accel": "kvm"})");
    CHECK(value_of(kvm, "-cpu") == row.with_kvm);
    CHECK(kvm.warnings.empty());
    const Plan tcg = plan_of("{" + cpu + R"("accel": "tcg"})");
    CHECK(value_of(tcg, "-cpu") == row.in_software);
    CHECK(tcg.warnings == (row.warned ? std::vector{warning} : std::vector<std::string>{}));
  }
}

TEST_CASE("plan: the accelerator's warning comes before the CPU model's", "[plan]") {
  const Plan plan = plan_of(R"({"cpu": {"model": "host"}})", without_kvm());
  CHECK(plan.accel == "tcg");
  CHECK(value_of(plan, "-accel") == "tcg");
  CHECK(plan.warnings ==
        std::vector<std::string>{
            "there is no /dev/kvm: the guest runs in software (TCG), many times slower; to change "
            "that: modprobe kvm_intel (or kvm_amd), with virtualisation enabled in the firmware",
            "CPU model \"host\" needs KVM: \"max\" is used instead"});
}

TEST_CASE("plan: a hypervisor is hidden and spoken to like Hyper-V only under KVM", "[plan]") {
  const std::string enlightened =
      ",hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-synic,hv-time,hv-stimer,"
      "hv-frequencies,hv-tlbflush,hv-ipi";
  struct Row {
    const char* cpu;
    std::string model;
  };
  for (const Row& row : {
           Row{R"({"hide_hypervisor": true})", "host,kvm=off"},
           Row{R"({"hyperv": true})", "host" + enlightened},
           Row{R"({"hyperv": {"vendor_id": "a b"}})", "host" + enlightened + ",hv-vendor-id=a b"},
           Row{R"({"hyperv": true, "hide_hypervisor": true, "model": "max"})",
               "max,kvm=off" + enlightened + ",hv-vendor-id=whatever"},
       }) {
    INFO(row.cpu);
    const std::string cpu = std::string(R"("cpu": )") + row.cpu;
    const Plan kvm = plan_of("{" + cpu + R"(, "accel": "kvm"})");
    CHECK(value_of(kvm, "-cpu") == row.model);
    CHECK(kvm.warnings.empty());
    const Plan tcg = plan_of("{" + cpu + R"(, "accel": "tcg"})");
    CHECK(value_of(tcg, "-cpu") == "max");
    CHECK(tcg.warnings ==
          std::vector<std::string>{
              "cpu.hide_hypervisor and cpu.hyperv need KVM: the guest is started without them"});
  }
}

TEST_CASE("plan: Hyper-V's interface is what KVM offers, but for what is left out", "[plan]") {
  const auto cpu_of = [](const std::string& hyperv, const std::set<std::string>& offered) {
    survey::Survey survey = host();
    survey.hyperv = offered;
    return plan_of(R"({"accel": "kvm", "cpu": {"hyperv": )" + hyperv + "}}", survey);
  };
  const std::set<std::string> all = {config::kEnlightenments.begin(),
                                     config::kEnlightenments.end()};
  const Plan whole = cpu_of("true", all);
  CHECK(value_of(whole, "-cpu") ==
        "host,hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-synic,hv-time,"
        "hv-stimer,hv-stimer-direct,hv-frequencies,hv-tlbflush,hv-ipi,hv-avic");
  CHECK(whole.warnings.empty());
  CHECK(whole.tuning.at(1) ==
        "Hyper-V's interface: avic frequencies ipi relaxed runtime spinlocks stimer stimer-direct "
        "synic time tlbflush vapic vpindex; otherwise: \"cpu\": {\"hyperv\": {\"without\": […]}}");
  // What builds on something goes with it.
  CHECK(value_of(cpu_of(R"({"without": ["vpindex"]})", all), "-cpu") ==
        "host,hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-runtime,hv-time,hv-frequencies");
  CHECK(value_of(cpu_of(R"({"without": ["time", "ipi"]})", all), "-cpu") ==
        "host,hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-synic,"
        "hv-frequencies,hv-tlbflush,hv-avic");
  std::set<std::string> older = all;
  for (const char* name : {"stimer-direct", "ipi", "avic"}) {
    older.erase(name);
  }
  const Plan lacking = cpu_of("true", older);
  CHECK(value_of(lacking, "-cpu") ==
        "host,hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-synic,hv-time,"
        "hv-stimer,hv-frequencies,hv-tlbflush");
  CHECK(lacking.warnings ==
        std::vector<std::string>{"this KVM does not offer, of Hyper-V's interface, ipi: the guest "
                                 "is started without; a newer kernel has it"});
  CHECK(cpu_of(R"({"without": ["ipi"]})", older).warnings.empty());
}

TEST_CASE("plan: KVM's guests have no HPET unless it is asked for", "[plan]") {
  const auto machine = [](const std::string& config) {
    return value_of(plan_of("{" + config + "}"), "-machine");
  };
  CHECK(machine(R"("accel": "kvm")") == "q35,memory-backend=ram,hpet=off");
  CHECK(machine(R"("accel": "kvm", "hpet": true)") == "q35,memory-backend=ram,hpet=on");
  CHECK(machine(R"("accel": "kvm", "hpet": false)") == "q35,memory-backend=ram,hpet=off");
  CHECK(machine(R"("accel": "kvm", "hpet": "auto")") == "q35,memory-backend=ram,hpet=off");
  CHECK(machine(R"("accel": "tcg")") == "q35,memory-backend=ram");
  CHECK(machine(R"("accel": "tcg", "hpet": false)") == "q35,memory-backend=ram,hpet=off");
}

TEST_CASE("plan: on AMD's processors threads are shown by topoext, to a guest that has some",
          "[plan]") {
  const auto model = [](const std::string& vendor, const std::string& config) {
    survey::Survey survey = host();
    survey.cpu_vendor = vendor;
    return value_of(plan_of("{" + config + "}", survey), "-cpu");
  };
  const std::string threads = R"("accel": "kvm", "cpu": {"cores": 2, "threads": 2})";
  CHECK(model("AuthenticAMD", threads) == "host,topoext=on");
  CHECK(model("GenuineIntel", threads) == "host");
  CHECK(model("HygonGenuine", threads) == "host,topoext=on");
  // The config's own features come after, and one that it names is its own.
  const auto with = [](const std::string& text) {
    return R"("accel": "kvm", "cpu": {"threads": 2, "model": ")" + text + "\"}";
  };
  CHECK(model("AuthenticAMD", with("host,-svm")) == "host,topoext=on,-svm");
  CHECK(model("AuthenticAMD", with("host,topoext=off")) == "host,topoext=off");
  CHECK(model("AuthenticAMD", with("hostile")) == "hostile");
  CHECK(model("AuthenticAMD", R"("accel": "kvm", "cpu": {"cores": 4})") == "host");
  CHECK(model("AuthenticAMD", R"("accel": "kvm", "cpu": {"threads": 2, "model": "EPYC"})") ==
        "EPYC");
  CHECK(model("AuthenticAMD", R"("accel": "tcg", "cpu": {"threads": 2})") == "max");
}

TEST_CASE("plan: a guest with CPUs of its own idles by itself, and sees their caches", "[plan]") {
  vmlaunch::tests::PciTree built;
  vmlaunch::tests::add_two_die_desktop(built);
  const auto plan = [&](const std::string& cpu, const std::string& isolated) {
    built.write("/sys/devices/system/cpu/isolated", isolated + "\n");
    const base::Tree tree = built.tree();
    survey::Reader reader(tree);
    survey::Survey survey = host();
    survey.host_cpus = survey::look_at_cpus(reader);
    return plan_of(R"({"accel": "kvm", "memory": {"locked": false}, "cpu": {)" + cpu + "}}",
                   survey,
                   kPureRoot);
  };
  const std::string pinned = R"("cores": 2, "threads": 1, "pin": "2-3")";
  CHECK(value_of(plan(pinned, "2-3"), "-overcommit") == "cpu-pm=on");
  CHECK(value_of(plan(pinned, "2-3"), "-cpu") == "host,host-cache-info=on");
  CHECK(value_of(plan(pinned + R"(, "power_management": false)", "2-3"), "-overcommit").empty());
  CHECK(value_of(plan(pinned, ""), "-overcommit").empty());
  CHECK(value_of(plan(pinned + R"(, "power_management": true)", ""), "-overcommit") == "cpu-pm=on");
  CHECK(value_of(plan(R"("cores": 2)", "2-3"), "-cpu") == "host");
}

TEST_CASE("plan: locked memory and idling by itself are one option of QEMU's", "[plan]") {
  CHECK(value_of(plan_of(R"({"accel": "kvm", "memory": {"locked": true},
                             "cpu": {"power_management": true}})",
                         host(),
                         kPureRoot),
                 "-overcommit") == "mem-lock=on,cpu-pm=on");
}

TEST_CASE("plan: the guest's graphics card is the config's, with VNC or without", "[plan]") {
  struct Row {
    const char* config;
    const char* driver;
  };
  for (const Row& row : {Row{R"({"video": "vga"})", "VGA"},
                         Row{R"({"video": "qxl"})", "qxl-vga"},
                         Row{R"({"video": "virtio"})", "virtio-vga"},
                         Row{R"({"video": "none"})", ""}}) {
    INFO(row.config);
    for (const bool vnc : {false, true}) {
      Json config = Json::parse(row.config);
      if (vnc) {
        config["display"] = {{"vnc", "127.0.0.1:5900"}};
      }
      std::string driver;
      for (const std::string& value : values_of(plan_of(config.dump()), "-device")) {
        const Json device = Json::parse(value);
        driver += device.at("id") == "screen" ? device.at("driver").get<std::string>() : "";
      }
      CHECK(driver == row.driver);
    }
  }
}

TEST_CASE("plan: the guest is heard where a sound server is, and told where not", "[plan]") {
  const std::string annas = "/run/user/1000/pulse/native";
  const std::string none = R"({"driver":"none","id":"audio"})";
  const auto pa = [](const std::string& path) {
    return R"({"driver":"pa","id":"audio","server":")" + path + "\"}";
  };
  const auto no_server = [](const std::string& path) {
    return "there is no sound server at " + path + ": the guest is not heard; type: ls -l " + path;
  };
  survey::Survey survey = host();
  survey.sound_servers = {annas, "/vms/socket"};
  struct Row {
    const char* audio;
    const Identity& identity;
    std::string backend;
    std::string warning;
  };
  for (const Row& row : {
           Row{R"({"backend": "none"})", kPlain, none, ""},
           Row{R"({"backend": "pa"})", kPlain, pa(annas), ""},
           Row{R"({"backend": "pa"})", kSudo, pa(annas), ""},
           Row{R"({"backend": "pa", "server": "socket"})", kPureRoot, pa("/vms/socket"), ""},
           Row{R"({"backend": "pa", "server": "other"})", kPlain, none, no_server("/vms/other")},
           Row{R"({"backend": "pa"})",
               kPureRoot,
               none,
               "QEMU's user has no sound server: the guest is not heard; name one in audio.server, "
               "or a user in run_as"},
           Row{R"({"backend": "pipewire"})",
               kPlain,
               pa(annas),
               "QEMU speaks to PipeWire as to PulseAudio, at " + annas},
       }) {
    INFO(row.audio);
    const Plan plan = plan_of(std::string(R"({"audio": )") + row.audio + "}", survey, row.identity);
    CHECK(value_of(plan, "-audiodev") == row.backend);
    CHECK(base::join(plan.warnings, "\n") == row.warning);
  }
  const Plan plan = plan_of(R"({"audio": {"backend": "none", "device": "hda-micro"}})");
  CHECK(values_of(plan, "-device") ==
        std::vector<std::string>{
            R"({"addr":"0x1e","bus":"pcie.0","driver":"ich9-intel-hda","id":"sound"})",
            R"({"audiodev":"audio","bus":"sound.0","driver":"hda-micro","id":"codec"})"});
}

TEST_CASE("plan: a clock with local time catches up with what the guest missed", "[plan]") {
  CHECK(value_of(plan_of(R"({"rtc": {"base": "localtime"}})"), "-rtc") ==
        "base=localtime,driftfix=slew");
  CHECK(values_of(plan_of(R"({"rtc": {"base": "utc"}})"), "-rtc").empty());
}

TEST_CASE("plan: ROM and VGA's addresses are the listed function's alone", "[plan]") {
  survey::Survey survey = host();
  vmlaunch::tests::PciTree tree;
  vmlaunch::tests::add_laptop(tree);
  survey.pci = survey::look_at_pci(tree.tree());
  const Plan plan = plan_of(
      R"({"pci": [{"device": "01:00.0", "functions": "all", "rom": "a, b.rom", "x_vga": true}]})",
      survey,
      kSudo);
  const std::vector<std::string> devices = values_of(plan, "-device");
  REQUIRE(devices.size() == 3);
  const Json card = Json::parse(devices[1]);
  CHECK(card.at("host") == "0000:01:00.0");
  CHECK(card.at("romfile") == "/vm/10");
  CHECK(card.at("x-vga") == true);
  CHECK_FALSE(card.contains("rombar"));
  const Json sound = Json::parse(devices[2]);
  CHECK(sound.at("host") == "0000:01:00.1");
  CHECK_FALSE(sound.contains("romfile"));
  CHECK_FALSE(sound.contains("x-vga"));
  CHECK(line(plan.files.at(0)) ==
        "10 ROM of 0000:01:00.0 /vms/a, b.rom (read only, made: never) reopened");
  const Plan barred =
      plan_of(R"({"pci": [{"device": "01:00.0", "rombar": false}]})", survey, kSudo);
  CHECK(Json::parse(values_of(barred, "-device").at(1)).at("rombar") == 0);
}

TEST_CASE("plan: VGA's addresses are for a VGA card only", "[plan]") {
  survey::Survey survey = host();
  vmlaunch::tests::PciTree tree;
  vmlaunch::tests::add_laptop(tree);
  survey.pci = survey::look_at_pci(tree.tree());
  CHECK(refusal([&] {
          static_cast<void>(
              plan_of(R"({"pci": [{"device": "01:00.1", "x_vga": true}]})", survey, kSudo));
        }) ==
        "10: Cannot give 0000:01:00.1 to the guest with x_vga: it is no VGA card; type: vmlaunch "
        "host");
}

TEST_CASE("plan: a serial port on the terminal gets a socket, never the terminal", "[plan]") {
  const Plan plan = plan_of(R"({"serial": "stdio"})");
  CHECK(plan.qemu.serial_stdio);
  CHECK(value_of(plan, "-chardev") == "socket,id=qmp,fd=3 | socket,id=serial0,fd=4");
  CHECK(value_of(plan, "-serial") == "chardev:serial0");
  CHECK(plan.files.empty());
}

TEST_CASE("plan: the older machine type has its bus's name on every device", "[plan]") {
  const Plan plan = plan_of(R"({"machine": "pc", "network": [{"user": {}}],
      "disks": [{"path": "d", "format": "raw"}], "display": {"vnc": "127.0.0.1:5900"}})");
  std::vector<std::string> buses;
  for (const std::string& value : values_of(plan, "-device")) {
    buses.push_back(Json::parse(value).at("bus"));
  }
  CHECK(buses == std::vector<std::string>{"pci.0", "pci.0", "pci.0", "pci.0", "usb.0"});
  CHECK(value_of(plan, "-machine") == "pc,memory-backend=ram,hpet=off");
}

TEST_CASE("plan: a UEFI build of the host is needed unless the config names a whole one",
          "[plan]") {
  survey::Survey survey = host();
  survey.uefi.reset();
  const std::string missing =
      "10: Cannot find a UEFI build on this host, which \"uefi\": true needs; type: apt install "
      "ovmf, or name one with \"code\" and \"template\" under \"firmware\"";
  struct Row {
    const char* more;
    std::string without_host;
    std::string with_host;
  };
  for (const Row& row : {
           Row{"", missing, "/usr/share/code.fd /usr/share/vars.fd"},
           Row{R"(, "code": "c")", missing, "/vms/c /usr/share/vars.fd"},
           Row{R"(, "template": "t")", missing, "/usr/share/code.fd /vms/t"},
           Row{R"(, "code": "c", "template": "t")", "/vms/c /vms/t", "/vms/c /vms/t"},
       }) {
    INFO(row.more);
    const std::string config =
        std::string(R"({"firmware": {"uefi": true, "vars": "v")") + row.more + "}}";
    const auto builds = [&](const survey::Survey& given) {
      std::string text;
      const std::string refused = refusal([&] {
        const Plan plan = plan_of(config, given);
        text = plan.files.at(0).path + " " + plan.files.at(1).template_path;
      });
      return refused == "nothing" ? text : refused;
    };
    CHECK(builds(survey) == row.without_host);
    CHECK(builds(host()) == row.with_host);
  }
}

TEST_CASE("plan: without UEFI a host's build is neither needed nor used", "[plan]") {
  survey::Survey survey = host();
  survey.uefi.reset();
  CHECK(plan_of("{}", survey) == plan_of("{}"));
}

}  // namespace
}  // namespace vmlaunch::launcher::plan

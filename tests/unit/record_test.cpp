#include "launcher/survey/record.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "base/text.hpp"
#include "launcher/survey/print.hpp"
#include "launcher/survey/survey.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/hosts.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::survey {
namespace {

namespace fs = std::filesystem;
using tests::Folder;
using tests::PciTree;
using tests::refusal;

void fill(PciTree& built) {
  add_laptop(built);
  built.add("10000:e0:06.0", {.driver = "pcieport"});
  built.add("0000:04:00.0", {.driver = "vfio-pci", .group = 13});
  built.write("/sys/kernel/iommu_groups/13/name", "vfio-noiommu\n");
  built.write("/dev/kvm", "");
  base::check(::chmod(built.path_of("/dev/kvm").c_str(), 0660), "set the mode");
  built.folder("/sys/module/kvm_intel/parameters");
  built.folder("/sys/module/vfio_pci");
  built.write("/usr/share/OVMF/OVMF_CODE_4M.fd", "code");
  built.write("/usr/share/OVMF/OVMF_VARS_4M.fd", "vars");
  built.write(built.device("0000:02:00.0") + "/driver_override", "vfio-pci\n");
  built.add("0000:02:10.0", {.group = 14, .bridge = "0000:00:1c.0"});
  built.link(built.device("0000:02:10.0") + "/physfn", "../0000:02:00.0");
  // What must not be recorded.
  built.write(built.device("0000:02:00.0") + "/net/eth0/address", "00:11:22:33:44:55\n");
  built.write(built.device("0000:02:00.0") + "/vpd", "serial number");
  built.write(built.device("0000:02:00.0") + "/config", "bytes");
  built.write("/sys/class/dmi/id/product_serial", "serial number\n");
}

/// Every path below the folder, sorted, with a link's target or a file's content.
std::vector<std::string> contents(const std::string& folder) {
  std::vector<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    std::string line = entry.path().string().substr(folder.size());
    if (entry.is_symlink()) {
      line += " -> " + fs::read_symlink(entry.path()).string();
    } else if (entry.is_regular_file()) {
      std::ifstream file(entry.path(), std::ios::binary);
      line += ": " + std::string(std::istreambuf_iterator<char>(file), {});
    }
    found.push_back(line);
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool holds(const std::vector<std::string>& lines, const std::string& line) {
  return std::find(lines.begin(), lines.end(), line) != lines.end();
}

TEST_CASE("record: a look at it finds what a look at the host found", "[record]") {
  PciTree built;
  fill(built);
  const Folder folder;
  write_record(record(built.tree()), folder.file("tree"));
  const base::Tree again(folder.file("tree"));
  CHECK(look_at_pci(again) == look_at_pci(built.tree()));
  CHECK(look_at_pci(again).functions.size() == 13);
  CHECK(look_at_pci(again).iommu_setup.cpu_vendor == "GenuineIntel");
  const Survey before = look(built.root(), {}, true);
  const Survey after = look(folder.file("tree"), {}, true);
  CHECK(after.kvm == before.kvm);
  CHECK(after.kvm.node);
  CHECK(after.uefi == before.uefi);
  CHECK(after.uefi.has_value());
}

TEST_CASE("record: every host that was published is told the same from its record", "[record]") {
  for (const auto add : {tests::add_hybrid_desktop,
                         tests::add_two_die_desktop,
                         tests::add_two_socket_server,
                         tests::add_one_gpu_laptop,
                         tests::add_two_gpu_laptop}) {
    PciTree built;
    add(built);
    const Folder folder;
    write_record(record(built.tree()), folder.file("tree"));
    const base::Tree tree = built.tree();
    const base::Tree again(folder.file("tree"));
    Reader before(tree);
    Reader after(again);
    const Host host = look_at_host(before);
    CHECK(look_at_host(after) == host);
    CHECK(host.unseen.empty());
    CHECK(host.cgroup.has_value());
    CHECK_FALSE(host.cpus.list.empty());
    CHECK(contents(folder.file("tree")) == [&] {
      write_record(record(again), folder.file("two"));
      return contents(folder.file("two"));
    }());
  }
}

TEST_CASE("record: it holds of the kernel's command line and of cgroups nothing about a person",
          "[record]") {
  PciTree built;
  tests::add_four_core_desktop(built);
  built.write("/proc/cmdline", "root=UUID=5d9b ip=10.1.1.1:::::eth0 intel_iommu=on kvm.nx=1 x=y\n");
  const std::string own = "/user.slice/user-1000.slice/anna";
  built.write("/proc/self/cgroup", "0::" + own + "\n");
  built.write("/sys/fs/cgroup" + own + "/cgroup.procs", "1234\n");
  built.write("/sys/fs/cgroup" + own + "/cgroup.controllers", "memory pids\n");
  const Folder folder;
  const auto take = [&] {
    write_record(record(built.tree()), folder.file("tree"));
    return std::string("done");
  };
  REQUIRE(::chmod(folder.path().c_str(), 0777) == 0);
  if (::geteuid() == 0) {
    fs::permissions(built.path_of("/sys/fs/cgroup" + own), fs::perms::all);
    fs::permissions(built.path_of("/sys/fs/cgroup" + own + "/cgroup.procs"), fs::perms::all);
    REQUIRE(tests::as_user(tests::kUser, take) == "done");
  } else {
    take();
  }
  const std::vector<std::string> found = contents(folder.file("tree"));
  CHECK(holds(found, "/proc/cmdline: intel_iommu=on kvm.nx=1\n"));
  CHECK(holds(found, "/proc/self/cgroup: 0::/caller\n"));
  CHECK(holds(found, "/sys/fs/cgroup/caller/cgroup.controllers: memory pids\n"));
  CHECK(holds(found, "/sys/fs/cgroup/caller/cgroup.procs: "));
  for (const std::string& line : found) {
    INFO(line);
    CHECK(line.find("anna") == std::string::npos);
    CHECK(line.find("5d9b") == std::string::npos);
    CHECK(line.find("10.1.1.1") == std::string::npos);
  }
}

TEST_CASE("record: a record of a record is the same", "[record]") {
  PciTree built;
  fill(built);
  const Folder folder;
  write_record(record(built.tree()), folder.file("one"));
  write_record(record(base::Tree(folder.file("one"))), folder.file("two"));
  CHECK(contents(folder.file("one")) == contents(folder.file("two")));
}

TEST_CASE("record: this machine's own is looked at with the same result", "[record]") {
  const base::Tree host("");
  const Folder folder;
  write_record(record(host), folder.file("tree"));
  CHECK(look_at_pci(base::Tree(folder.file("tree"))) == look_at_pci(host));
}

TEST_CASE("record: links are relative, as in sysfs, and lead nowhere else", "[record]") {
  PciTree built;
  fill(built);
  const Folder folder;
  write_record(record(built.tree()), folder.file("tree"));
  const std::vector<std::string> found = contents(folder.file("tree"));
  const std::string port = "/sys/devices/pci0000:00/0000:00:1c.0";
  CHECK(holds(found,
              "/sys/bus/pci/devices/0000:02:00.0 -> "
              "../../../devices/pci0000:00/0000:00:1c.0/0000:02:00.0"));
  CHECK(holds(found, port + "/0000:02:00.0/driver -> ../../../../bus/pci/drivers/igb"));
  CHECK(holds(found, port + "/0000:02:00.0/iommu_group -> ../../../../kernel/iommu_groups/12"));
  CHECK(holds(found,
              "/sys/kernel/iommu_groups/12/devices/0000:02:00.0 -> "
              "../../../../devices/pci0000:00/0000:00:1c.0/0000:02:00.0"));
  fs::rename(folder.file("tree"), folder.file("moved"));
  CHECK(look_at_pci(base::Tree(folder.file("moved"))) == look_at_pci(built.tree()));
}

TEST_CASE("record: it holds what is looked at of a device, and nothing that names a person",
          "[record]") {
  PciTree built;
  fill(built);
  const Folder folder;
  write_record(record(built.tree()), folder.file("tree"));
  const std::vector<std::string> found = contents(folder.file("tree"));
  const std::string card = "/sys/devices/pci0000:00/0000:00:1c.0/0000:02:00.0";
  for (const std::string line : {"/driver_override: vfio-pci\n",
                                 "/power/control: auto\n",
                                 "/d3cold_allowed: 1\n",
                                 "/numa_node: -1\n",
                                 "/reset_method: flr pm bus\n",
                                 "/vendor: 0x8086\n"}) {
    INFO(line);
    CHECK(holds(found, card + line));
  }
  CHECK(
      holds(found, "/sys/devices/pci0000:00/0000:00:1c.0/0000:02:10.0/physfn -> ../0000:02:00.0"));
  CHECK(holds(found, "/proc/cpuinfo: vendor_id\t: GenuineIntel\n"));
  CHECK(holds(found, "/dev/kvm: "));
  CHECK(holds(found, "/usr/share/OVMF/OVMF_CODE_4M.fd: "));
  CHECK(holds(found, "/sys/module/vfio_pci"));
  CHECK(holds(found, "/sys/bus/pci/drivers/vfio-pci"));
  CHECK(holds(found, "/sys/kernel/iommu_groups/12/type: DMA-FQ\n"));
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder.file("tree") + card)) {
    names.insert(entry.path().filename());
  }
  CHECK(names == std::set<std::string>{"class",
                                       "control",
                                       "d3cold_allowed",
                                       "device",
                                       "driver",
                                       "driver_override",
                                       "iommu_group",
                                       "numa_node",
                                       "power",
                                       "reset_method",
                                       "revision",
                                       "vendor"});
  for (const std::string& line : found) {
    INFO(line);
    CHECK(line.find("serial") == std::string::npos);
    CHECK(line.find("00:11:22") == std::string::npos);
  }
}

TEST_CASE("record: it tells how many functions are in it, and what was hidden", "[record]") {
  PciTree built;
  fill(built);
  CHECK(record(built.tree()).functions == 13);
  CHECK(record(built.tree()).unseen.empty());
  if (tests::skipped_without_root()) {
    return;
  }
  fs::permissions(built.path_of(built.device("0000:02:10.0") + "/vendor"), fs::perms::none);
  CHECK(tests::as_user(tests::kUser, [&] {
          const Record seen = record(built.tree());
          return std::to_string(seen.functions) + " " + base::join(seen.unseen, "; ");
        }) == "12 /sys/bus/pci/devices/0000:02:10.0/vendor: Permission denied");
}

TEST_CASE("record: a tree that cannot be a kernel's is not recorded", "[record]") {
  PciTree built;
  built.folder("/sys/bus/pci/devices/x");
  CHECK(refusal([&] { static_cast<void>(record(built.tree())); }).starts_with("10: Cannot take "));
}

TEST_CASE("record: only a folder that is new or empty is written to", "[record]") {
  PciTree built;
  fill(built);
  const Record entries = record(built.tree());
  const Folder folder;
  const auto refused = [&](const std::string& name) {
    return refusal([&] { write_record(entries, folder.file(name)); });
  };
  const auto cannot = [&](const std::string& name, const std::string& cause) {
    return "10: Cannot record the host in " + folder.file(name) + ": " + cause;
  };
  fs::create_directory(folder.file("empty"));
  CHECK(refused("empty") == "nothing");
  CHECK(refused("empty") ==
        cannot("empty", "it is not empty; name a folder that is not there yet"));
  folder.write("file", "kept");
  CHECK(refused("file") == cannot("file", "Not a directory"));
  fs::create_directory(folder.file("target"));
  fs::create_directory_symlink("target", folder.file("link"));
  CHECK(refused("link") == cannot("link", "Not a directory"));
  CHECK(fs::is_empty(folder.file("target")));
  CHECK(refused("none/deeper") == cannot("none/deeper", "No such file or directory"));
  fs::create_directory(folder.file("shared"));
  REQUIRE(::chmod(folder.file("shared").c_str(), 0777) == 0);
  CHECK(refused("shared") ==
        cannot("shared", "others can write there; name a folder that is not there yet"));
}

TEST_CASE("record: root writes into nobody else's folder", "[record]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const Folder folder;
  fs::create_directory(folder.file("theirs"));
  REQUIRE(::chown(folder.file("theirs").c_str(), tests::kUser, tests::kUser) == 0);
  CHECK(refusal([&] {
          write_record({}, folder.file("theirs"));
        }).ends_with("others can write there; name a folder that is not there yet"));
}

}  // namespace
}  // namespace vmlaunch::launcher::survey

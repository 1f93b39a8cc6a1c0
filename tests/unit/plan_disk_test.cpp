#include <sys/stat.h>

#include <string>
#include <utility>
#include <vector>

#include "launcher/plan/plan.hpp"
#include "tests/support/program.hpp"
#include "tests/unit/plan_of.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using namespace tests;

TEST_CASE("plan: a block device is opened as one, a file as a file", "[plan]") {
  const VmSpec spec = load(R"({"disks": [{"path": "/dev/disk/by-id/a", "format": "raw"},
                                         {"path": "b.qcow2", "format": "qcow2", "readonly": true},
                                         {"path": "/dev/c", "format": "qcow2"}]})");
  survey::Survey survey = host();
  survey.block_devices = {"/dev/disk/by-id/a", "/dev/c"};
  const Plan plan = make_plan(spec, survey, kPlain, Authority::user);
  const std::vector<std::string> values = values_of(plan, "-blockdev");
  const auto node = [&](std::size_t i) { return Json::parse(values.at(i)); };
  REQUIRE(values.size() == 6);
  CHECK(node(0) == Json::parse(R"({"driver": "host_device", "filename": "/dev/fdset/10",
      "node-name": "disk0-file", "read-only": false, "discard": "unmap"})"));
  CHECK(node(1) == Json::parse(R"({"driver": "raw", "file": "disk0-file", "node-name": "disk0",
      "read-only": false, "discard": "unmap"})"));
  CHECK(node(2) == Json::parse(R"({"driver": "file", "filename": "/dev/fdset/11",
      "node-name": "disk1-file", "read-only": true, "discard": "unmap"})"));
  CHECK(node(3) == Json::parse(R"({"driver": "qcow2", "file": "disk1-file", "node-name": "disk1",
      "read-only": true, "discard": "unmap", "backing": null})"));
  CHECK(node(4).at("driver") == "host_device");
  CHECK(node(5).at("backing") == nullptr);
}

TEST_CASE("plan: the images beneath a disk are what the config says, and are only read", "[plan]") {
  survey::Survey survey = host();
  survey.block_devices = {"/dev/golden"};
  const Plan plan = plan_of(
      R"({"disks": [{"path": "top.qcow2", "format": "qcow2", "cache": "none", "backing": [
          {"path": "/images/middle, \"a\"", "format": "qcow2"}, {"path": "/dev/golden", "format": "raw"}]}]})",
      survey);
  std::vector<std::string> nodes;
  for (const std::string& value : values_of(plan, "-blockdev")) {
    const Json node = Json::parse(value);
    nodes.push_back(node.at("node-name").get<std::string>() + " " +
                    node.at("driver").get<std::string>() +
                    (node.at("read-only") == true ? " ro" : " rw") +
                    (node.contains("backing") ? " over " + node.at("backing").dump() : "") +
                    (node.at("cache").at("direct") == true ? " direct" : ""));
  }
  CHECK(nodes == std::vector<std::string>{
                     "disk0-backing2-file host_device ro direct",
                     "disk0-backing2 raw ro direct",
                     "disk0-backing1-file file ro direct",
                     R"(disk0-backing1 qcow2 ro over "disk0-backing2" direct)",
                     "disk0-file file rw direct",
                     R"(disk0 qcow2 rw over "disk0-backing1" direct)",
                 });
  REQUIRE(plan.files.size() == 3);
  CHECK(plan.files[0].purpose == "image 2 beneath disk 0");
  CHECK(plan.files[0].backing == std::nullopt);
  CHECK(plan.files[1].path == "/images/middle, \"a\"");
  CHECK(plan.files[1].backing == "/dev/golden");
  CHECK(plan.files[2].backing == "/images/middle, \"a\"");
  CHECK(plan.files[1].access == FileUse::Access::read);
}

/// The arguments from the first thread, disk or controller on, a line each.
std::string disk_arguments(const Plan& plan) {
  std::string text;
  const std::vector<std::string>& all = plan.qemu.arguments;
  const auto from = std::find(all.begin(), all.end(), "-m") + 4;  // -m SIZE -object MEMORY
  for (auto argument = from; argument != all.end() && *argument != "-display"; argument += 2) {
    text += *argument + " " + *(argument + 1) + "\n";
  }
  return text;
}

TEST_CASE("plan: each bus of a disk has its device, and virtio-scsi one controller", "[plan]") {
  const Plan plan = plan_of(R"({"disks": [
      {"path": "a", "format": "raw", "bus": "sata", "cache": "unsafe"},
      {"path": "b", "format": "raw", "bus": "virtio-scsi", "serial": "x, \"y\""},
      {"path": "c", "type": "cdrom"},
      {"path": "d", "format": "raw", "iothread": true, "cache": "none"},
      {"path": "e", "type": "cdrom", "bus": "virtio-scsi", "iothread": true},
      {"path": "f", "format": "raw", "cache": "writethrough", "iothread": false}]})");
  CHECK(disk_arguments(plan) ==
        R"(-object {"id":"iothread-scsi","qom-type":"iothread"}
-device {"addr":"0x5","bus":"pcie.0","driver":"virtio-scsi-pci","id":"scsi","iothread":"iothread-scsi"}
-add-fd fd=10,set=10
-blockdev {"cache":{"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/10","node-name":"disk0-file","read-only":false}
-blockdev {"cache":{"no-flush":true},"discard":"unmap","driver":"raw","file":"disk0-file","node-name":"disk0","read-only":false}
-device {"bootindex":1,"bus":"ide.0","drive":"disk0","driver":"ide-hd","id":"disk0-device"}
-add-fd fd=11,set=11
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/11","node-name":"disk1-file","read-only":false}
-blockdev {"discard":"unmap","driver":"raw","file":"disk1-file","node-name":"disk1","read-only":false}
-device {"bootindex":2,"bus":"scsi.0","drive":"disk1","driver":"scsi-hd","id":"disk1-device","scsi-id":1,"serial":"x, \"y\""}
-add-fd fd=12,set=12
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/12","node-name":"disk2-file","read-only":true}
-blockdev {"discard":"unmap","driver":"raw","file":"disk2-file","node-name":"disk2","read-only":true}
-device {"bootindex":3,"bus":"ide.1","drive":"disk2","driver":"ide-cd","id":"disk2-device"}
-add-fd fd=13,set=13
-blockdev {"cache":{"direct":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/13","node-name":"disk3-file","read-only":false}
-blockdev {"cache":{"direct":true},"discard":"unmap","driver":"raw","file":"disk3-file","node-name":"disk3","read-only":false}
-object {"id":"iothread-disk3","qom-type":"iothread"}
-device {"addr":"0x7","bootindex":4,"bus":"pcie.0","drive":"disk3","driver":"virtio-blk-pci","id":"disk3-device","iothread":"iothread-disk3"}
-add-fd fd=14,set=14
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/14","node-name":"disk4-file","read-only":true}
-blockdev {"discard":"unmap","driver":"raw","file":"disk4-file","node-name":"disk4","read-only":true}
-device {"bootindex":5,"bus":"scsi.0","drive":"disk4","driver":"scsi-cd","id":"disk4-device","scsi-id":4}
-add-fd fd=15,set=15
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/15","node-name":"disk5-file","read-only":false}
-blockdev {"discard":"unmap","driver":"raw","file":"disk5-file","node-name":"disk5","read-only":false}
-device {"addr":"0x9","bootindex":6,"bus":"pcie.0","drive":"disk5","driver":"virtio-blk-pci","id":"disk5-device","write-cache":"off"}
)");
  std::vector<bool> direct;
  for (const FileUse& file : plan.files) {
    direct.push_back(file.direct);
  }
  CHECK(direct == std::vector<bool>{false, false, false, true, false, false});
}

TEST_CASE("plan: native AIO stands at the node that opens the file", "[plan]") {
  const Plan plan =
      plan_of(R"({"disks": [{"path": "a", "format": "qcow2", "cache": "none", "aio": "native"}]})");
  CHECK(values_of(plan, "-blockdev") ==
        std::vector<std::string>{
            R"({"aio":"native","cache":{"direct":true},"discard":"unmap","driver":"file",)"
            R"("filename":"/dev/fdset/10","node-name":"disk0-file","read-only":false})",
            R"({"backing":null,"cache":{"direct":true},"discard":"unmap","driver":"qcow2",)"
            R"("file":"disk0-file","node-name":"disk0","read-only":false})"});
}

TEST_CASE("plan: io_uring is the one weaker way to a disk, and warned of", "[plan]") {
  const std::string disk = R"("disks": [{"path": "a", "format": "raw", "aio": "io_uring"}])";
  const Plan plan = plan_of("{" + disk + "}");
  CHECK(values_of(plan, "-blockdev").front() ==
        R"({"aio":"io_uring","discard":"unmap","driver":"file","filename":"/dev/fdset/10",)"
        R"("node-name":"disk0-file","read-only":false})");
  CHECK(plan.qemu.calls.sections.contains("disk-io-uring"));
  CHECK(plan.warnings ==
        std::vector<std::string>{
            "disk 0's io_uring weakens the sandbox: what QEMU asks of the kernel by it is neither "
            "watched nor refused; \"native\" is"});
  CHECK_FALSE(plan_of(R"({"disks": [{"path": "a", "format": "raw"}]})")
                  .qemu.calls.sections.contains("disk-io-uring"));
}

TEST_CASE("plan: a raw disk that begins like a qcow2 image is a warning", "[plan]") {
  const vmlaunch::tests::Folder folder;
  const std::string image = folder.write("image", "QFI\xfb and more");
  const std::string plain = folder.write("plain", "QFI");
  const std::string fifo = folder.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  Json disks = Json::array();
  for (const std::string& path : {plain, image, fifo, folder.file("missing")}) {
    disks.push_back({{"path", path}, {"format", "raw"}});
  }
  const auto warned_of = [&] {
    const VmSpec spec = load(Json{{"disks", disks}}.dump());
    survey::Survey survey = host();
    survey.qcow2_heads = survey::look("", spec, false).qcow2_heads;
    return base::join(make_plan(spec, survey, kPlain, Authority::user).warnings, "\n");
  };
  CHECK(warned_of() == "disk 1, " + image +
                           ", is \"raw\" and begins like a qcow2 image: either its \"format\" is "
                           "\"qcow2\", or the guest has written that; type: qemu-img info " +
                           image);
  disks[1]["format"] = "qcow2";
  CHECK(warned_of().empty());
}

}  // namespace
}  // namespace vmlaunch::launcher::plan

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/errors.hpp"
#include "launcher/steps/lock.hpp"
#include "tests/lab/device_vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

const std::string kNode = "/sys/devices/system/node/node1";
const std::string kIgnoreMsrs = "/sys/module/kvm/parameters/ignore_msrs";

int pages(const std::string& attribute) {
  return std::stoi(contents(kNode + "/hugepages/hugepages-2048kB/" + attribute));
}

/// So many huge pages that the second node surely has them: a machine may keep one of 1G there.
int many_pages() {
  std::istringstream words(contents(kNode + "/meminfo"));
  long free = 0;  // kB
  for (std::string word; words >> word;) {
    if (word == "MemFree:") {
      words >> free;
    }
  }
  return std::min(512, static_cast<int>(free / 2048 * 3 / 4));
}

/// How many processes the kernel has killed because there was no memory.
std::string kills_for_memory() {
  const std::string all = contents("/proc/vmstat");
  const std::size_t begin = all.find("oom_kill ");
  return all.substr(begin, all.find('\n', begin) - begin);
}

std::string size_of(int huge_pages) {
  return std::to_string(2 * huge_pages) + "M";
}

/// A QEMU with 128 huge pages of the second node.
Json huge_config() {
  Json config = idle_config();
  config["memory"] = {{"size", "256M"}, {"hugepages", "2M"}, {"node", 1}};
  return config;
}

Json parameter_config(bool on) {
  Json config = probe_config();
  config["module_parameters"] = {{"kvm.ignore_msrs", on}};
  return config;
}

void stop(Program& program) {
  program.signal(SIGTERM);
  static_cast<void>(program.exit_code());
  INFO(program.output());
  CHECK(said(program, "host restored"));
}

/// Nobody is left to undo anything.
void kill_all(Program& program) {
  const pid_t guardian = guardian_pid(program);
  program.signal(SIGSTOP);
  ::kill(guardian, SIGKILL);
  program.signal(SIGKILL);
  static_cast<void>(program.exit_code());
}

int recover(const Json& config) {
  Program program(command_of({"recover", config.at("name")}));
  return program.exit_code();
}

/// How many of a process's huge pages each node has, in the kernel's words: "N1=128".
std::string huge_pages_of(pid_t pid) {
  std::ifstream maps("/proc/" + std::to_string(pid) + "/numa_maps");
  std::string found;
  for (std::string line; std::getline(maps, line);) {
    if (line.find(" huge ") == std::string::npos) {
      continue;
    }
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      if (word.starts_with("N") && word.find('=') != std::string::npos) {
        found += word;
      }
    }
  }
  return found;
}

void write_pages(const std::string& size, int count) {
  std::ofstream(kNode + "/hugepages/hugepages-" + size + "/nr_hugepages") << count;
}

/// Somebody else, who uses all huge pages that the second node can have but `left`.
class Neighbour {
 public:
  explicit Neighbour(int left) {
    write_pages("2048kB", 1024);
    count_ = pages("nr_hugepages") - left;
    write_pages("2048kB", count_);
    const unsigned long node = 2;  // bit 1
    base::check(::syscall(SYS_set_mempolicy, MPOL_BIND, &node, 8), "stay on the node");
    memory_ = ::mmap(nullptr,
                     size(),
                     PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE,
                     -1,
                     0);
    REQUIRE(memory_ != MAP_FAILED);
    base::check(::syscall(SYS_set_mempolicy, MPOL_DEFAULT, nullptr, 0), "go anywhere");
  }
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;
  ~Neighbour() {
    ::munmap(memory_, size());
    write_pages("2048kB", 0);
  }

  [[nodiscard]] int count() const { return count_; }

 private:
  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(count_) << 21U; }

  int count_ = 0;
  void* memory_ = nullptr;
};

}  // namespace

TEST_CASE("memory: huge pages come from the node that was named, and go with QEMU",
          "[intel][intel-6.12][amd][systemd]") {
  const Folder folder;
  Program program(run_of(folder, huge_config()));
  REQUIRE(program.says("] running"));
  CHECK(huge_pages_of(qemu_pid(program)) == "N1=128");
  CHECK(pages("nr_hugepages") == 128);
  CHECK(pages("surplus_hugepages") == 128);
  CHECK(pages("free_hugepages") == 0);
  stop(program);
  CHECK(pages("nr_hugepages") == 0);
}

TEST_CASE("memory: huge pages of a QEMU that is killed are the host's again",
          "[intel][intel-6.12][amd]") {
  const Folder folder;
  Program program(run_of(folder, huge_config()));
  REQUIRE(program.says("] running"));
  ::kill(qemu_pid(program), SIGKILL);
  CHECK(program.exit_code() == 16);
  CHECK(pages("nr_hugepages") == 0);
}

TEST_CASE("memory: when all of a run is killed its huge pages are the host's again by themselves",
          "[intel][intel-6.12][amd]") {
  const Folder folder;
  const Json config = huge_config();
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  kill_all(program);
  CHECK(eventually([] { return pages("nr_hugepages") == 0; }));
  CHECK(recover(config) == 0);
}

TEST_CASE("memory: a guardian killed while it sets pages aside has them given back by recover",
          "[intel][intel-6.12][amd]") {
  const Folder folder;
  Json config = huge_config();
  config["memory"]["size"] = size_of(many_pages());
  Program program(run_of(folder, config));
  REQUIRE(eventually([] { return pages("nr_hugepages") > 0; }, kPatience));
  const auto children = children_of(program.pid());
  REQUIRE(children.size() == 1);
  ::kill(children.front(), SIGKILL);
  static_cast<void>(program.exit_code());
  CHECK(pages("surplus_hugepages") == 0);
  CHECK(pages("nr_hugepages") > 0);
  CHECK(recover(config) == 0);
  CHECK(pages("nr_hugepages") == 0);
}

TEST_CASE("memory: two VMs with huge pages ended in either order leave none",
          "[intel][intel-6.12][amd]") {
  for (const bool first_ends_first : {true, false}) {
    const Folder folder;
    Program first(run_of(folder, huge_config(), "first.json"));
    REQUIRE(first.says("] running"));
    Program second(run_of(folder, huge_config(), "second.json"));
    REQUIRE(second.says("] running"));
    CHECK(pages("surplus_hugepages") == 256);
    stop(first_ends_first ? first : second);
    CHECK(pages("nr_hugepages") == 128);
    stop(first_ends_first ? second : first);
    CHECK(pages("nr_hugepages") == 0);
  }
}

TEST_CASE("memory: a module parameter of two VMs is put back by the last",
          "[intel][intel-6.12][amd]") {
  const std::string before = contents(kIgnoreMsrs);
  REQUIRE(before == "N");
  for (const bool first_ends_first : {true, false}) {
    const Folder folder;
    Program first(run_of(folder, parameter_config(true), "first.json"));
    REQUIRE(first.says("] running"));
    Program second(run_of(folder, parameter_config(true), "second.json"));
    REQUIRE(second.says("] running"));
    Program third(run_of(folder, parameter_config(false), "third.json"));
    CHECK(third.exit_code() == 21);
    CHECK(contents(kIgnoreMsrs) == "Y");
    stop(first_ends_first ? first : second);
    CHECK(contents(kIgnoreMsrs) == "Y");
    stop(first_ends_first ? second : first);
    CHECK(contents(kIgnoreMsrs) == "N");
  }
}

TEST_CASE("memory: a VM of which all was killed takes no parameter from another",
          "[intel][intel-6.12][amd]") {
  const Folder folder;
  const Json killed = parameter_config(true);
  Program first(run_of(folder, killed, "first.json"));
  REQUIRE(first.says("] running"));
  Program second(run_of(folder, parameter_config(true), "second.json"));
  REQUIRE(second.says("] running"));
  kill_all(first);
  CHECK(recover(killed) == 0);
  CHECK(contents(kIgnoreMsrs) == "Y");
  stop(second);
  CHECK(contents(kIgnoreMsrs) == "N");
}

TEST_CASE("memory: a pool that cannot be filled gives back what it took, and says what it got",
          "[intel][intel-6.12][amd]") {
  const Folder folder;
  Json config = huge_config();
  const int wanted = many_pages();
  config["memory"]["size"] = size_of(wanted);
  std::filesystem::create_directories("/run/vmlaunch");
  // Between the plan, which saw enough, and the filling: the turn is somebody else's.
  auto turn = launcher::steps::Lock::take(
      "/run/vmlaunch", "huge pages", launcher::steps::Lock::Purpose::run, "neighbour");
  REQUIRE(turn);
  Program program(run_of(folder, config));
  REQUIRE(program.says("waiting for huge pages: the VM neighbour has it"));
  const Neighbour neighbour(wanted / 3);
  const std::string kills = kills_for_memory();
  turn.reset();
  CHECK(program.exit_code(Seconds(100)) == 13);
  INFO(program.output());
  CHECK(said(program,
             "Cannot set aside " + std::to_string(wanted) + " huge pages of 2M on node 1: got "));
  CHECK(said(program, " of " + std::to_string(wanted)));
  CHECK(said(program, "host restored"));
  CHECK(pages("nr_hugepages") == neighbour.count());
  CHECK(kills_for_memory() == kills);
}

TEST_CASE("memory: a huge page of 1G is found anew, and goes with QEMU however that dies",
          "[intel-6.12][each]") {
  const std::string pool = kNode + "/hugepages/hugepages-1048576kB/";
  REQUIRE(contents(pool + "nr_hugepages") == "1");  // since the boot: nothing else has that memory
  const Folder folder;
  Json config = huge_config();
  config["memory"] = {{"size", "1G"}, {"hugepages", "1G"}, {"node", 1}};
  {
    Program program(run_of(folder, config));
    REQUIRE(program.says("] running"));
    CHECK(contents(pool + "free_hugepages") == "0");
    CHECK(contents(pool + "surplus_hugepages") == "0");
    stop(program);
  }
  CHECK(contents(pool + "nr_hugepages") == "1");
  CHECK(contents(pool + "free_hugepages") == "1");
  write_pages("1048576kB", 0);
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  CHECK(contents(pool + "nr_hugepages") == "1");
  CHECK(contents(pool + "surplus_hugepages") == "1");
  kill_all(program);
  CHECK(eventually([&] { return contents(pool + "nr_hugepages") == "0"; }));
  CHECK(recover(config) == 0);
  write_pages("1048576kB", 1);
  CHECK(contents(pool + "nr_hugepages") == "1");
}

#include "base/byte_size.hpp"
#include "tests/unit/child.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;
using vmlaunch::tests::pool_of;
using Fault = FakeKernel::Fault;

Step pages(std::uint64_t count, bool drop_caches = false) {
  return fill_pool({0, {2 * base::kMiB}, count, true, drop_caches});
}

int total(const Laptop& laptop, unsigned node = 0) {
  return pool_of(laptop.tree, node, "nr_hugepages");
}
int surplus(const Laptop& laptop, unsigned node = 0) {
  return pool_of(laptop.tree, node, "surplus_hugepages");
}
int free_pages(const Laptop& laptop) {
  return pool_of(laptop.tree, 0, "free_hugepages");
}

/// A VM with 100 huge pages from its first step to its end.
class Vm {
 public:
  Vm(const Laptop& laptop, FakeKernel& kernel, const std::string& name)
      : kernel_(kernel), journal_(laptop.journal(name)) {
    REQUIRE(apply_all({pages(100)}, kernel_, journal_));
    kernel_.take_pages(0, 100);
    after_start(kernel_, journal_, [](const std::string& text) { FAIL(text); });
  }

  void end() {
    kernel_.give_pages_back(0, 100);
    CHECK(undo_all(kernel_, journal_).code == ExitCode::ended);
  }

 private:
  FakeKernel& kernel_;
  Journal journal_;
};

TEST_CASE("pool: pages that QEMU has are gone with it, whoever else was killed", "[steps]") {
  const Laptop laptop;
  FakeKernel kernel(const_cast<PciTree&>(laptop.tree));
  const auto before = vmlaunch::tests::snapshot(laptop.tree);
  const Vm vm(laptop, kernel, "vm");
  CHECK(total(laptop) == 100);
  CHECK(surplus(laptop) == 100);
  kernel.give_pages_back(0, 100);
  CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(laptop.tree)) == "");
  const int changes = kernel.count();
  CHECK(recover_vm(kernel, laptop.folders(), "vm").value().code == ExitCode::ended);
  CHECK(kernel.count() == changes);
}

TEST_CASE("pool: two VMs ended in either order leave the pool that the host had", "[steps]") {
  for (const bool first_ends_first : {true, false}) {
    Laptop laptop;
    FakeKernel kernel(laptop.tree);
    kernel.write_on_node("nr_hugepages_mempolicy", "30", 0);
    const auto before = vmlaunch::tests::snapshot(laptop.tree);
    Vm first(laptop, kernel, "first");
    CHECK(total(laptop) == 100);
    CHECK(surplus(laptop) == 70);
    Vm second(laptop, kernel, "second");
    CHECK(total(laptop) == 200);
    CHECK(surplus(laptop) == 170);
    first_ends_first ? first.end() : second.end();
    first_ends_first ? second.end() : first.end();
    CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(laptop.tree)) == "");
  }
}

TEST_CASE("pool: a VM that ends while another starts takes nothing from it", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Vm first(laptop, kernel, "first");
  Journal journal = laptop.journal();
  REQUIRE(apply_all({pages(100)}, kernel, journal));
  first.end();
  CHECK(free_pages(laptop) >= 100);
  kernel.take_pages(0, 100);
  after_start(kernel, journal, [](const std::string& text) { FAIL(text); });
  kernel.give_pages_back(0, 100);
  CHECK(undo_all(kernel, journal).leftovers.empty());
  CHECK(total(laptop) == 0);
}

TEST_CASE("pool: pages of another node are not touched", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  kernel.write_on_node("nr_hugepages_mempolicy", "50", 1);
  kernel.take_pages(1, 50);
  kernel.write_on_node("nr_hugepages_mempolicy", "10", 1);  // 40 become surplus
  Vm vm(laptop, kernel, "vm");
  CHECK(total(laptop, 1) == 50);
  CHECK(surplus(laptop, 1) == 40);
  CHECK(surplus(laptop) == 100);
  vm.end();
  CHECK(total(laptop) == 0);
  CHECK(total(laptop, 1) == 50);
}

TEST_CASE("pool: free pages that are there are used, and stay", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  kernel.write_on_node("nr_hugepages_mempolicy", "150", 0);
  const int changes = kernel.count();
  Journal journal = laptop.journal();
  REQUIRE(apply_all({pages(100)}, kernel, journal));
  CHECK(kernel.count() == changes);
  kernel.take_pages(0, 100);
  after_start(kernel, journal, [](const std::string& text) { FAIL(text); });
  kernel.give_pages_back(0, 100);
  CHECK(undo_all(kernel, journal).code == ExitCode::ended);
  CHECK(free_pages(laptop) == 150);
}

TEST_CASE("pool: one that cannot be filled is told with numbers, and all is given back",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  kernel.set_memory(0, 70);
  const auto before = vmlaunch::tests::snapshot(laptop.tree);
  Journal journal = laptop.journal();
  CHECK(vmlaunch::tests::refusal([&] { apply(pages(100), kernel, context(), journal); }) ==
        "13: Cannot set aside 100 huge pages of 2M on node 0: got 70 of 100 huge pages of 2 MiB on "
        "node 0; ask for less memory (140M could be had), end what uses memory there, or allow "
        "\"drop_caches\"; type: cat /sys/devices/system/node/node0/meminfo");
  CHECK(total(laptop) == 70);
  CHECK(undo_all(kernel, journal).code == ExitCode::ended);
  CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(laptop.tree)) == "");
}

TEST_CASE(
    "pool: memory is moved together, and caches dropped, only when that is needed and allowed",
    "[steps]") {
  const auto news_of = [](int left, int scattered, int cached, const Step& step, bool zfs) {
    Laptop laptop;
    FakeKernel kernel(laptop.tree);
    kernel.set_memory(0, left, scattered, cached);
    if (zfs) {
      laptop.tree.folder("/sys/module/zfs");
    }
    Journal journal = laptop.journal();
    Context telling = context();
    std::vector<std::string> news;
    telling.waiting = [&](const std::string& text) { news.push_back(text); };
    try {
      apply(step, kernel, telling, journal);
    } catch (const Failure&) {
      news.emplace_back("refused");
    }
    return news;
  };
  using News = std::vector<std::string>;
  const std::string moves = "moving memory together on node 0";
  const std::string writes = "writing to disk what the host has cached of its files";
  const std::string drops = "dropping what the host has cached of its files";
  CHECK(news_of(100, 0, 0, pages(100, true), false).empty());
  CHECK(news_of(70, 30, 0, pages(100, true), false) == News{moves});
  CHECK(news_of(70, 30, 0, pages(100), true) == News{"refused"});
  CHECK(news_of(70, 0, 30, pages(100), false) == News{moves, "refused"});
  CHECK(news_of(70, 0, 30, pages(100, true), false) == News{moves, writes, drops});
  CHECK(news_of(70, 0, 30, pages(100, true), true) == News{writes, drops});
  CHECK(news_of(70, 0, 0, pages(100, true), false) ==
        News{moves, writes, drops, writes, drops, "refused"});
}

TEST_CASE("pool: one that somebody else changed is left and named", "[steps]") {
  for (const char* others : {"7", "500"}) {
    Laptop laptop;
    FakeKernel kernel(laptop.tree);
    kernel.write_on_node("nr_hugepages_mempolicy", "10", 0);
    Journal journal = laptop.journal();
    REQUIRE(apply_all({pages(100)}, kernel, journal));
    kernel.write_on_node("nr_hugepages_mempolicy", others, 0);
    std::string told;
    after_start(kernel, journal, [&](const std::string& text) { told += text; });
    CHECK(told == "there are " + std::string(others) +
                      " huge pages of 2M on node 0, there were 10: somebody else has changed "
                      "that, and it will be left");
    const Undone undone = undo_all(kernel, journal);
    CHECK(undone.code == ExitCode::host_not_restored);
    REQUIRE(undone.leftovers.size() == 1);
    CHECK(undone.leftovers[0] ==
          "changed by somebody else meanwhile, and left: there are " + std::string(others) +
              " huge pages of 2M on node 0, there were 10; type: echo 10 > "
              "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages");
    CHECK(std::to_string(total(laptop)) == others);
  }
}

TEST_CASE("pool: what was lowered already may be changed by anybody", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Vm vm(laptop, kernel, "vm");
  kernel.write_on_node("nr_hugepages_mempolicy", "150", 0);
  vm.end();
  CHECK(total(laptop) == 150);
}

}  // namespace
}  // namespace vmlaunch::launcher::steps

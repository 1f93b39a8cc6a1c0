#include "tests/unit/child.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;
using Fault = FakeKernel::Fault;

const char* const kFile = "/sys/module/kvm/parameters/ignore_msrs";

Step ignore_msrs(bool on = true) {
  return set_parameter("kvm.ignore_msrs", on);
}

/// Two VMs on one host.
struct Two {
  Laptop laptop;
  FakeKernel kernel{laptop.tree};
  Journal a = laptop.journal("a");
  Journal b = laptop.journal("b");

  [[nodiscard]] std::string value() const { return *kernel.tree().read(kFile); }
  [[nodiscard]] Undone recover(const std::string& vm) {
    return recover_vm(kernel, laptop.folders(), vm).value();
  }
};

TEST_CASE("sharing: the first applies, and the last restores, in whatever order they end",
          "[steps]") {
  for (const bool a_first : {true, false}) {
    Two two;
    apply(ignore_msrs(), two.kernel, context(), two.a);
    apply(ignore_msrs(), two.kernel, context(), two.b);
    CHECK(two.kernel.count() == 1);
    const Undone first = undo_all(two.kernel, a_first ? two.a : two.b);
    CHECK(first.restored == std::vector<std::string>{
                                "set the module parameter kvm.ignore_msrs to Y: left for the VM " +
                                std::string(a_first ? "b" : "a")});
    CHECK(two.value() == "Y");
    CHECK(undo_all(two.kernel, a_first ? two.b : two.a).code == ExitCode::ended);
    CHECK(two.value() == "N");
  }
}

TEST_CASE("sharing: a dead VM's change counts until it is recovered", "[steps]") {
  for (const bool dead_first : {true, false}) {
    Two two;
    apply(ignore_msrs(), two.kernel, context(), two.a);  // and killed
    apply(ignore_msrs(), two.kernel, context(), two.b);
    if (dead_first) {
      CHECK(two.recover("a").code == ExitCode::ended);
      CHECK(two.value() == "Y");
      CHECK(undo_all(two.kernel, two.b).code == ExitCode::ended);
    } else {
      CHECK(undo_all(two.kernel, two.b).code == ExitCode::ended);
      CHECK(two.value() == "Y");
      CHECK(two.recover("a").code == ExitCode::ended);
    }
    CHECK(two.value() == "N");
  }
}

TEST_CASE("sharing: what was found is right wherever the first was killed", "[steps]") {
  for (const Fault fault : {Fault::killed, Fault::killed_after}) {
    Two two;
    two.kernel.fail_at(1, fault);
    CHECK_THROWS_AS(apply(ignore_msrs(), two.kernel, context(), two.a), FakeKernel::Killed);
    apply(ignore_msrs(), two.kernel, context(), two.b);
    CHECK(two.value() == "Y");
    CHECK(two.recover("a").code == ExitCode::ended);
    CHECK(two.value() == "Y");
    CHECK(undo_all(two.kernel, two.b).code == ExitCode::ended);
    CHECK(two.value() == "N");
  }
}

TEST_CASE("sharing: the last that is killed while it restores leaves it to its recovery",
          "[steps]") {
  for (const Fault fault : {Fault::killed, Fault::killed_after}) {
    Two two;
    apply(ignore_msrs(), two.kernel, context(), two.a);
    apply(ignore_msrs(), two.kernel, context(), two.b);
    CHECK(undo_all(two.kernel, two.a).code == ExitCode::ended);
    two.kernel.fail_at(1, fault);
    CHECK_THROWS_AS(static_cast<void>(undo_all(two.kernel, two.b)), FakeKernel::Killed);
    CHECK(two.recover("b").code == ExitCode::ended);
    CHECK(two.value() == "N");
  }
}

TEST_CASE("sharing: two that want the opposite cannot run at once", "[steps]") {
  Two two;
  apply(ignore_msrs(), two.kernel, context(), two.a);
  CHECK(
      vmlaunch::tests::refusal([&] { apply(ignore_msrs(false), two.kernel, context(), two.b); }) ==
      "21: Cannot set the module parameter kvm.ignore_msrs to N: the VM a needs it otherwise "
      "(set the module parameter kvm.ignore_msrs to Y); stop that first, or change one of the "
      "configs");
  CHECK(two.value() == "Y");
  CHECK(undo_all(two.kernel, two.b).restored.empty());
  CHECK(undo_all(two.kernel, two.a).code == ExitCode::ended);
  CHECK(two.value() == "N");
  Journal again = two.laptop.journal("b");
  CHECK_NOTHROW(apply(ignore_msrs(false), two.kernel, context(), again));
}

TEST_CASE("sharing: a journal that nobody can use lends nothing", "[steps]") {
  Two two;
  two.laptop.state.write("garbage", "x\n", 0600);
  apply(ignore_msrs(), two.kernel, context(), two.a);
  CHECK(undo_all(two.kernel, two.a).code == ExitCode::ended);
  CHECK(two.value() == "N");
}

TEST_CASE("sharing: a parameter that is not there, or is no yes or no, is refused", "[steps]") {
  Two two;
  for (const char* content : {"", "64\n"}) {
    two.laptop.tree.write(kFile, content);
    CHECK(vmlaunch::tests::refusal([&] { ignore_msrs()->check(two.kernel); }) ==
          "10: Cannot set the module parameter kvm.ignore_msrs to Y: " + std::string(kFile) +
              " is not there, or not a yes or no; type: modprobe kvm");
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::steps

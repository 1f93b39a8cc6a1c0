#include "launcher/guardian/interrupts.hpp"

#include <string>

#include "tests/support/catch.hpp"
#include "tests/support/fake_kernel.hpp"

namespace vmlaunch::launcher::guardian {
namespace {

using tests::FakeKernel;
using tests::PciTree;

TEST_CASE("vfio's interrupts: those of the guest's devices go to its CPUs in turn, and no line",
          "[guardian]") {
  PciTree tree;
  FakeKernel kernel(tree);
  tree.write("/proc/interrupts",
             "            CPU0       CPU1\n"
             "  16:          0          0   IO-APIC  16-fasteoi   i801, vfio-intx(0000:01:00.0)\n"
             "  17:          0          0   IO-APIC  17-fasteoi   vfio-intx(0000:01:00.0)\n"
             "  24:          1          2  IR-PCI-MSI 1-edge      vfio-msix[0](0000:01:00.0)\n"
             "  25:          1          2  IR-PCI-MSI 2-edge      vfio-msi[0](0000:01:00.1)\n"
             "  26:          1          2  IR-PCI-MSI 3-edge      vfio-msix[1](0000:01:00.0)\n"
             "  27:          1          2  IR-PCI-MSI 4-edge      vfio-msix[0](0000:02:00.0)\n"
             "  28:          1          2  IR-PCI-MSI 5-edge      xhci_hcd\n"
             "NMI:          1          2   Non-maskable interrupts\n");
  const auto mask = [](unsigned interrupt) {
    return "/proc/irq/" + std::to_string(interrupt) + "/smp_affinity_list";
  };
  for (unsigned interrupt : {16U, 17U, 24U, 25U, 26U, 27U, 28U}) {
    tree.write(mask(interrupt), "0-1\n");
  }
  place_interrupts(kernel, {{0, 1, 0, 0}, {0, 1, 0, 1}}, {{2}, {3}});
  const auto place = [&](unsigned interrupt) { return kernel.tree().read(mask(interrupt)); };
  CHECK(place(24) == "2");
  CHECK(place(25) == "3");
  CHECK(place(26) == "2");
  for (unsigned interrupt : {16U, 17U, 27U, 28U}) {
    INFO(interrupt);
    CHECK(place(interrupt) == "0-1");
  }
  // What is placed already is not written again.
  const int count = kernel.count();
  place_interrupts(kernel, {{0, 1, 0, 0}, {0, 1, 0, 1}}, {{2}, {3}});
  CHECK(kernel.count() == count);
}

}  // namespace
}  // namespace vmlaunch::launcher::guardian

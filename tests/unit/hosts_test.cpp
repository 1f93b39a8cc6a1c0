#include "tests/support/hosts.hpp"

#include <string>

#include "launcher/survey/print.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/golden.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using tests::PciTree;

TEST_CASE("host: every host that was published is told as on record", "[host]") {
  struct Row {
    const char* name;
    void (*add)(PciTree&);
  };
  // Without names, which come from this machine's pci.ids.
  const PciNames names("/nonexistent");
  for (const Row& row : {Row{"hybrid-desktop", tests::add_hybrid_desktop},
                         Row{"two-die-desktop", tests::add_two_die_desktop},
                         Row{"two-socket-server", tests::add_two_socket_server},
                         Row{"four-core-desktop", tests::add_four_core_desktop},
                         Row{"one-gpu-laptop", tests::add_one_gpu_laptop},
                         Row{"two-gpu-laptop", tests::add_two_gpu_laptop}}) {
    INFO(row.name);
    PciTree built;
    row.add(built);
    const base::Tree tree = built.tree();
    Reader reader(tree);
    const Host host = look_at_host(reader);
    CHECK(host.unseen.empty());
    tests::check_golden("host/" + std::string(row.name) + ".txt", to_text(host, names));
    tests::check_golden("host/" + std::string(row.name) + ".json",
                        to_json(host, names).dump(2) + "\n");
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::survey

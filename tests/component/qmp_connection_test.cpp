#include "tests/component/qmp_real.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::qmp;
using namespace vmlaunch::qmp::tests;

TEST_CASE("qmp: a monitor is spoken to, one line per message or many") {
  for (const char* options : {"", ",pretty=on"}) {
    INFO(options);
    Conversation scene({{"-machine", "none"}, "", options});
    const Greeting greeting = scene.shake_hands();
    CHECK(greeting.offers_oob);
    CHECK_FALSE(greeting.version.empty());
    CHECK(scene.execute("query-status").at("running") == true);
  }
}

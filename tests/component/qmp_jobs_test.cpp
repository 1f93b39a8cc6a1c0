#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "qmp/operations.hpp"
#include "qmp/values.hpp"
#include "tests/component/qmp_listening.hpp"
#include "tests/component/qmp_raw.hpp"
#include "tests/component/qmp_real.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

using namespace vmlaunch::qmp;
using namespace vmlaunch::qmp::tests;
using vmlaunch::tests::QemuSetup;
using vmlaunch::tests::RealQemu;

namespace {

using Words = std::vector<std::string>;

/// A source of 64 MiB, a target for it, and one that fails every write.
QemuSetup disks() {
  const std::string blank = "driver=null-co,size=67108864";
  return {{"-machine",
           "none",
           "-blockdev",
           blank + ",node-name=source",
           "-blockdev",
           blank + ",node-name=target",
           "-blockdev",
           "driver=blkdebug,node-name=broken,image.driver=null-co,image.size=67108864"
           ",inject-error.0.event=none,inject-error.0.iotype=write"}};
}

Json backup_to(const std::string& target) {
  return {{"job-id", "job"}, {"device", "source"}, {"target", target}, {"sync", "full"}};
}

asio::awaitable<bool> succeed(asio::awaitable<void> call) {
  co_await std::move(call);
  co_return true;
}

bool run(Conversation& scene, const std::string& command, const Json& arguments) {
  return scene.finish(
      scene.start(succeed(run_job(*scene.client, command, arguments, "job", kLong))));
}

std::string job_error(Conversation& scene, const std::string& command, const Json& arguments) {
  try {
    run(scene, command, arguments);
    return "none";
  } catch (const JobError& error) {
    return error.what();
  }
}

/// A copy that goes on with what is written later, once it has come to the end: it is ready then,
/// and ends only when it is told to.
Json mirror_to(const std::string& target) {
  return {{"job-id", "job"}, {"device", "source"}, {"target", target}, {"sync", "full"}};
}

/// One that copies a byte a second.
Json endless_backup() {
  Json arguments = backup_to("target");
  arguments["speed"] = 1;
  return arguments;
}

std::shared_ptr<Outcome<bool>> begin(Conversation& scene,
                                     const std::string& command,
                                     const Json& arguments,
                                     std::chrono::milliseconds deadline = kLong) {
  return scene.start(succeed(run_job(*scene.client, command, arguments, "job", deadline)));
}

/// Why a job that has begun ends; "none" if it ends well.
std::string error_of(Conversation& scene, const std::shared_ptr<Outcome<bool>>& job) {
  try {
    scene.finish(job);
    return "none";
  } catch (const JobError& error) {
    return error.what();
  }
}

const Json kJob = {{"id", "job"}};

/// Waits until a job has come so far.
void until_status(Conversation& scene, const std::string& status) {
  scene.until([&] {
    const Json jobs = scene.execute("query-jobs");
    return !jobs.empty() && jobs.at(0).at("status") == status;
  });
}

/// A second monitor of the same QEMU, with an event loop of its own.
class Outsider : public Loop {
 public:
  explicit Outsider(const std::string& path)
      : visitor_(finish(start(visit(context, path, kLong)))) {
    finish(start(visitor_->client.handshake(kLong)));
  }

  Json execute(const std::string& command, const Json& arguments = nullptr) {
    return finish(start(visitor_->client.execute(command, arguments, kLong)));
  }

  /// Waits for the change of a job that a command brings about.
  void change_job(const std::string& command) {
    const EventFilter change{{"JOB_STATUS_CHANGE"}};
    finish(start(execute_and_wait(visitor_->client, command, kJob, change, kLong)));
  }

 private:
  std::shared_ptr<Visitor> visitor_;
};

QemuSetup disks_and_monitor(const std::string& path) {
  QemuSetup setup = disks();
  for (const std::string& word : {std::string("-chardev"),
                                  "socket,id=other,server=on,wait=off,path=" + path,
                                  std::string("-mon"),
                                  std::string("chardev=other,mode=control")}) {
    setup.arguments.push_back(word);
  }
  return setup;
}

}  // namespace

TEST_CASE("qmp: a job can be over before the command that starts it returns") {
  RealQemu qemu(disks());
  RawMonitor raw(qemu.take_monitor());
  raw.negotiate();
  // Almost always, but it is a race.
  bool over_first = false;
  for (Id id = 2; !over_first && id < 20; ++id) {
    raw.send_command("blockdev-backup", backup_to("target"), id);
    bool returned = false;
    bool over = false;
    while (!returned || !over) {
      const Json message = raw.message();
      REQUIRE_FALSE(message.contains("error"));
      returned = returned || message.contains("return");
      over = over || text_of(message.value("data", Json()), "status") == "null";
      over_first = over_first || (over && !returned);
    }
  }
  CHECK(over_first);
}

TEST_CASE("qmp: a job is run to its end, also when that comes before its command returns") {
  Conversation scene(disks());
  scene.shake_hands();
  for (int i = 0; i < 3; ++i) {
    CHECK(run(scene, "blockdev-backup", backup_to("target")));
    CHECK(scene.execute("query-jobs").empty());
  }
}

TEST_CASE("qmp: a job that fails says why, and is gone") {
  Conversation scene(disks());
  scene.shake_hands();
  CHECK(job_error(scene, "blockdev-backup", backup_to("broken")) ==
        "Job job failed: Input/output error");
  CHECK(scene.execute("query-jobs").empty());
  const Json options = {{"driver", "file"}, {"filename", "/nowhere/image"}, {"size", 1048576}};
  CHECK(job_error(scene, "blockdev-create", {{"job-id", "job"}, {"options", options}}) ==
        "Job job failed: Could not create '/nowhere/image': No such file or directory");
  CHECK(scene.execute("query-jobs").empty());
}

TEST_CASE("qmp: a job that has to be dismissed is, and what it made is there") {
  vmlaunch::tests::Folder folder;
  Conversation scene(disks());
  scene.shake_hands();
  const Json options = {{"driver", "file"}, {"filename", folder.file("image")}, {"size", 1048576}};
  CHECK(run(scene, "blockdev-create", {{"job-id", "job"}, {"options", options}}));
  CHECK(scene.execute("query-jobs").empty());
  CHECK(folder.names() == Words{"image"});
}

TEST_CASE("qmp: a job whose command is refused is no job") {
  Conversation scene(disks());
  scene.shake_hands();
  CHECK_THROWS_AS(run(scene, "blockdev-backup", backup_to("nothing")), CommandError);
}

TEST_CASE("qmp: a job that is ready is waited for until it is completed") {
  Conversation scene(disks());
  scene.shake_hands();
  const auto job = begin(scene, "blockdev-mirror", mirror_to("target"));
  until_status(scene, "ready");
  CHECK_FALSE(job->done);
  scene.execute("job-complete", kJob);
  CHECK(scene.finish(job));
  CHECK(scene.execute("query-jobs").empty());
}

TEST_CASE("qmp: a job that is cancelled has failed, whatever it had come to") {
  Conversation scene(disks());
  scene.shake_hands();
  const auto running = begin(scene, "blockdev-backup", endless_backup());
  until_status(scene, "running");
  scene.execute("job-cancel", kJob);
  CHECK(error_of(scene, running) == "Job job failed: it was cancelled");

  const auto ready = begin(scene, "blockdev-mirror", mirror_to("target"));
  until_status(scene, "ready");
  scene.execute("job-cancel", kJob);
  CHECK(error_of(scene, ready) == "Job job failed: it was cancelled");

  Json stays = endless_backup();
  stays["auto-dismiss"] = false;
  const auto dismissed = begin(scene, "blockdev-backup", stays);
  until_status(scene, "running");
  scene.execute("job-cancel", kJob);
  CHECK(error_of(scene, dismissed) == "Job job failed: Operation canceled");
  CHECK(scene.execute("query-jobs").empty());
}

TEST_CASE("qmp: a mirror that is asked to stop where it is has ended well") {
  Conversation scene(disks());
  scene.shake_hands();
  const auto job = begin(scene, "blockdev-mirror", mirror_to("target"));
  until_status(scene, "ready");
  scene.execute("block-job-cancel", {{"device", "job"}});
  CHECK(scene.finish(job));
}

TEST_CASE("qmp: a job that fails and stays to be asked says why, and is dismissed") {
  Conversation scene(disks());
  scene.shake_hands();
  Json arguments = backup_to("broken");
  arguments["auto-dismiss"] = false;
  CHECK(job_error(scene, "blockdev-backup", arguments) == "Job job failed: Input/output error");
  CHECK(scene.execute("query-jobs").empty());
}

TEST_CASE("qmp: a job whose QEMU dies is interrupted") {
  Conversation scene(disks());
  scene.shake_hands();
  const auto job = begin(scene, "blockdev-backup", endless_backup());
  until_status(scene, "running");
  scene.qemu.signal(SIGKILL);
  const auto interrupted = thrown_by<Interrupted>([&] { return scene.finish(job); });
  CHECK(interrupted.sent());
}

TEST_CASE("qmp: a job that is not told to end is given up at the deadline, and goes on") {
  Conversation scene(disks());
  scene.shake_hands();
  const auto job = begin(scene, "blockdev-mirror", mirror_to("target"), 200ms);
  const auto timeout = thrown_by<Timeout>([&] { return scene.finish(job); });
  CHECK(timeout.sent());
  until_status(scene, "ready");
}

TEST_CASE("qmp: a completion that does not come in time is one of a command that was sent") {
  Conversation scene;
  scene.shake_hands();
  const auto never = scene.start(
      execute_and_wait(*scene.client, "query-name", nullptr, {{"DEVICE_DELETED"}}, 50ms));
  const auto timeout = thrown_by<Timeout>([&] { return scene.finish(never); });
  CHECK(timeout.sent());
}

TEST_CASE("qmp: a job that failed behind more events than are kept has not succeeded") {
  constexpr int kRounds = 150;  // of two events each, more than a reader's queue takes
  const vmlaunch::tests::Folder folder;
  const std::string path = folder.file("other");
  Conversation scene(disks_and_monitor(path));
  scene.shake_hands();
  const auto job = begin(scene, "blockdev-mirror", mirror_to("target"));
  until_status(scene, "ready");
  // This side is busy with something else meanwhile.
  Outsider outsider(path);
  for (int i = 0; i < kRounds; ++i) {
    outsider.change_job("job-pause");
    outsider.change_job("job-resume");
  }
  outsider.execute("job-cancel", kJob);
  outsider.until([&] { return outsider.execute("query-jobs").empty(); });
  CHECK(error_of(scene, job) == "Job job failed: it was cancelled");
}

TEST_CASE("qmp: the end of a job that had the same name is not that of the new one") {
  Conversation scene(disks());
  std::shared_ptr<Outcome<bool>> second;
  // QEMU tells of a job that is complete before it tells that it is gone.
  scene.client->on_event([&](const Event& event) {
    if (event.name == "BLOCK_JOB_COMPLETED" && !second) {
      second = begin(scene, "blockdev-mirror", mirror_to("target"));
    }
  });
  scene.shake_hands();
  scene.execute("blockdev-backup", backup_to("target"));
  scene.until([&] { return second != nullptr; });
  until_status(scene, "ready");
  scene.settle();
  REQUIRE_FALSE(second->done);
  scene.execute("job-complete", kJob);
  CHECK(scene.finish(second));
}

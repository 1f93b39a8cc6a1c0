# The rules must find exactly what is wrong with a small bad tree: cmake -D work=FOLDER -P self_test.cmake
cmake_minimum_required(VERSION 3.25)

set(here ${CMAKE_CURRENT_LIST_DIR})
file(REMOVE_RECURSE ${work})
file(COPY ${here}/bad/ DESTINATION ${work})
# Made here, since the real tree must not hold it.
set(beside "..")
file(WRITE ${work}/docs/outside.md "See ${beside}/shared/notes.md\n")

execute_process(
  COMMAND ${CMAKE_COMMAND} -D root=${work} -P ${here}/rules.cmake
  RESULT_VARIABLE status
  ERROR_VARIABLE found)
if(status EQUAL 0)
  message(FATAL_ERROR "The rules passed a bad tree")
endif()
string(REGEX REPLACE "CMake Error.*" "" found "${found}")
string(REPLACE "${beside}/shared" "BESIDE" found "${found}")
file(READ ${here}/expected.txt expected)
if(NOT found STREQUAL expected)
  message(FATAL_ERROR "Expected:\n${expected}\nFound:\n${found}")
endif()

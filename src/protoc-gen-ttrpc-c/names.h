/* SPDX-License-Identifier: MIT */
#pragma once

/* What things of a .proto file are called in C. Types and functions of messages are called what
 * protoc-c calls them; the tests compile one against the other. All return a new string, NULL when
 * out of memory. */

/* ".a.b.FooBar.Baz" -> "A__B__FooBar__Baz" */
char *name_type(const char *full_name);
/* ".a.b.FooBar.Baz" -> "a__b__foo_bar__baz" */
char *name_type_lower(const char *full_name);
/* "a.b.FooBar" -> "a_b_foo_bar": ours, for services and methods. */
char *name_lower(const char *dotted);
/* "a/b/c.proto" -> "a/b/c" */
char *name_stem(const char *path);

#!/bin/sh
# Generates the ssh host keys that are missing, of each type this ssh has.
exec ssh-keygen -A

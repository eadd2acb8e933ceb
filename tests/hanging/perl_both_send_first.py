# perl's open2() with cat: 500 KB are written before the first line is read.

import os

script = """
use IPC::Open2;
$| = 1;
my $pid = open2(my $from, my $to, 'cat');
print "ready\\n";
print $to 'x' x 499999, "\\n";
close $to;
my $line = <$from>;
waitpid $pid, 0;
"""
os.execvp("perl", ["perl", "-e", script])

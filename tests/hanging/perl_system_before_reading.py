# A perl parent waits for its forked child, which prints 200 KB into their pipe, and reads only then.

import os

script = """
$| = 1;
pipe my $reader, my $writer;
my $pid = fork // die;
if (!$pid) { close $reader; print $writer 'x' x 200000; close $writer; exit; }
close $writer;
print "ready\\n";
waitpid $pid, 0;
my @lines = <$reader>;
"""
os.execvp("perl", ["perl", "-e", script])

"""This task's environment (environment/project) is written by hand; its hidden cases are drawn in tests/verify.py.

Not part of the environment. Run by hand, `python3 generate.py` lists which clauses of the contract the shipped code
breaks, so that a change of the task can be seen to keep its bugs.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROBES = {
    "rewriting refreshes recency": "c=C(3);c.put(1,1);c.put(2,2);c.put(1,3);print(c.keys()==[2,1])",
    "rewriting evicts nothing": "c=C(1);c.put(1,1);c.put(1,2);print(c.stats()['evictions']==0)",
    "falsy values are hits": "c=C(2);c.put(1,0);print(c.get(1,'no')==0)",
    "None is a value": "c=C(2);c.put(1,None);print(c.peek(1,'no') is None)",
    "expiry at exactly ttl": "t=[0];c=C(2,5,lambda:t[0]);c.put(1,1);t[0]=5;print(c.peek(1) is None)",
    "reading does not prolong": "t=[0];c=C(2,5,lambda:t[0]);c.put(1,1);t[0]=4;c.get(1);t[0]=6;print(c.get(1) is None)",
    "expired not counted": "t=[0];c=C(2,5,lambda:t[0]);c.put(1,1);t[0]=9;print(len(c)==0)",
    "expired never push out": "t=[0];c=C(2,5,lambda:t[0]);c.put(1,1);t[0]=4;c.put(2,2);c.get(1);t[0]=6;c.put(3,3);"
    "print(c.keys()==[2,3])",
    "resize evicts": "c=C(3);[c.put(i,i) for i in range(3)];c.resize(1);print(c.keys()==[2])",
    "maxsize 0 refused": "\ntry:\n C(0);print(False)\nexcept ValueError: print(True)",
    "contains leaves statistics alone": "c=C(1);1 in c;print(c.stats()['misses']==0)",
    "memo tells types apart": "f=M()(lambda x:x);f(1);print(type(f(1.0)) is float)",
    "memo ignores keyword order": "n=[];f=M()(lambda a,b:n.append(1));f(a=1,b=2);f(b=2,a=1);print(len(n)==1)",
    "memo takes unhashable": "\ntry:\n print(M()(lambda x:len(x))([1])==1)\nexcept TypeError: print(False)",
}


def main():
    for clause, probe in PROBES.items():
        code = f"from minicache import LRUCache as C, memoize as M\n{probe}"
        run = subprocess.run([sys.executable, "-c", code], cwd=HERE / "environment/project", capture_output=True, text=True)
        print(f"{'kept  ' if run.stdout.strip() == 'True' else 'broken'}  {clause}")


if __name__ == "__main__":
    main()
